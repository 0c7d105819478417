package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkOutboxCommit commits groups that hold an event and a removal for each of so many streams.
func BenchmarkOutboxCommit(b *testing.B) {
	for _, size := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("group=%d", size), func(b *testing.B) {
			o := openedStore(b, b.TempDir())
			defer o.Close()
			b.ReportAllocs()
			cpu := processCPU(b)
			position := uint32(0)
			for b.Loop() {
				var g Group
				for queue := range uint64(size) {
					ev := availableEvent("stream", int(position)+1)
					ev.Queue = queue
					g.Appended = append(g.Appended, ev)
					g.Delivered = append(g.Delivered, DeliveredUpTo{Queue: queue, Head: position})
				}
				if _, err := o.Commit(g); err != nil {
					b.Fatal(err)
				}
				position++
			}
			events := float64(b.N) * float64(size)
			b.ReportMetric(float64((processCPU(b)-cpu).Nanoseconds())/events, "cpu-ns/event")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/events, "ns/event")
		})
	}
}

// BenchmarkStreamLifeEvents is the part of a stream's life that callbacks has in it: stream-available and, once that was
// taken, stream-closed, with 64 streams at once and an application over HTTP in the same process. cpu-us/life counts both.
func BenchmarkStreamLifeEvents(b *testing.B) {
	stores := map[string]func() Store{
		"memory":  func() Store { return newMemoryStore() },
		"durable": func() Store { return openedStore(b, b.TempDir()) },
	}
	for _, name := range []string{"memory", "durable"} {
		b.Run(name, func(b *testing.B) { benchmarkStreamLives(b, stores[name]()) })
	}
}

func benchmarkStreamLives(b *testing.B, store Store) {
	var taken sync.Map // stream ID -> chan struct{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if waiting, ok := taken.Load(r.Header.Get("x-streaming-id")); ok {
			waiting.(chan struct{}) <- struct{}{}
		}
	}))
	defer server.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: MaxInFlight}
	defer transport.CloseIdleConnections()
	c, err := resume(store, func(ctx context.Context, ev Event) (int, http.Header, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, nil)
		if err != nil {
			return 0, nil, err
		}
		req.Header.Set("x-streaming-id", ev.StreamID)
		res, err := transport.RoundTrip(req)
		if err != nil {
			return 0, nil, err
		}
		return res.StatusCode, res.Header, res.Body.Close()
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	c.Start()
	b.ReportAllocs()
	cpu := processCPU(b)
	var lives atomic.Int64
	var players sync.WaitGroup
	b.ResetTimer()
	for range 64 {
		players.Go(func() {
			told := make(chan struct{}, 2)
			for {
				n := lives.Add(1)
				if n > int64(b.N) {
					return
				}
				stream := fmt.Sprintf("0123456789abcdef-%016x", n)
				taken.Store(stream, told)
				for _, ev := range lifeOf(stream, 1) {
					ev.Queue = uint64(n)
					c.Append(ev)
					<-told
				}
				taken.Delete(stream)
			}
		})
	}
	players.Wait()
	b.StopTimer()
	b.ReportMetric(float64((processCPU(b)-cpu).Microseconds())/float64(b.N), "cpu-us/life")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Finish(ctx); err != nil {
		b.Fatal(err)
	}
}

// processCPU is the CPU time that this process has used.
func processCPU(tb testing.TB) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

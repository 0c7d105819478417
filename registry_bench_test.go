package main

// What the registry costs: go test -run '^$' -bench 'Registry|Collection|Report|Page' .

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRegistryLife is a whole life of a stream beside others that are live: the cost must not grow with them.
func BenchmarkRegistryLife(b *testing.B) {
	for _, live := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			r := registryWith(b, live)
			now := time.Now()
			s := r.joinServer(attachment{}, nowhere{}, serverInfo{kind: kindRTMP, ip: "10.0.0.2", port: 1935}, now)
			r.newStreamID = func() string { return "one" }
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.claim(s, claimRequest{requestRef: requestRef{id: "1"}, channel: "one", key: "key"}, now); err != nil {
					b.Fatal(err)
				}
				e := r.channels.Get("one").current.encoder
				r.announce(e, "one", "one", announcement{streamType: "HLS-LIVE", resolution: "ORIGINAL"}, now)
				r.end(s, "one", "one", now)
				r.streamClosed(e, "one", "one", now, now)
			}
		})
	}
}

// BenchmarkCollection is what the collector does for the registry's sake: CPU time, since it runs on all processors.
func BenchmarkCollection(b *testing.B) {
	r := registryWith(b, 100_000)
	runtime.GC()
	before := processCPU(b)
	for b.Loop() {
		runtime.GC()
	}
	b.ReportMetric(float64((processCPU(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	b.ReportMetric(float64(heap.HeapAlloc)/100_000, "B/stream")
	runtime.KeepAlive(r)
}

// nobody takes an answer and keeps nothing of it.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header       { return n.header }
func (nobody) WriteHeader(int)             {}
func (nobody) Write(p []byte) (int, error) { return io.Discard.Write(p) }

func BenchmarkReportOf100000(b *testing.B) {
	api := &commands{&coordinator{registry: registryWith(b, 100_000)}}
	b.ReportAllocs()
	for b.Loop() {
		api.report(nobody{http.Header{}}, nil)
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

// BenchmarkPageOf100000 is a page of the dashboard: the copy, a part at a time under the registry's lock, then search
// and sort.
func BenchmarkPageOf100000(b *testing.B) {
	r := registryWith(b, 100_000)
	streams := streamList()
	b.Run("longest time under the lock", func(b *testing.B) {
		var rows []streamRow
		for b.Loop() {
			rows, _ = r.appendRows(rows[:0], 0, math.MaxUint64)
		}
	})
	b.Run("copy", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.streamRows(func([]streamRow) {})
		}
	})
	first, err := streams.Parse("limit=1")
	if err != nil {
		b.Fatal(err)
	}
	_, _, middle := streams.Page([]streamRow{{streamReport: streamReport{Channel: "channel-00050000"}}, {streamReport: streamReport{Channel: "channel-00050001"}}}, first)
	for _, query := range []string{"", "sort=-since&limit=500", "q=0042", "after=" + middle} {
		q, err := streams.Parse(query)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("?"+query, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rows := streams.Pager(q)
				r.streamRows(rows.Add)
				rows.Page()
			}
		})
	}
	b.Run("totals", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.totals(time.Now())
		}
	})
}

package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"coordinator/internal/link"
)

// ask sends a request as it stands and returns the answer's status line, its headers, and its body.
func (r *rig) ask(head string) (*http.Response, string) {
	r.t.Helper()
	conn, err := r.pipes.Connect()
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	go io.WriteString(conn, strings.ReplaceAll(head, "\n", "\r\n")+"Host: gateway.example\r\nConnection: close\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err.Error()
	}
	return answer, string(body)
}

func TestRequestsArePassedOnWithoutWhatClientsMakeUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		c := r.coordinator("c1")
		c.other = func(w http.ResponseWriter, req *http.Request) {
			body, _ := io.ReadAll(req.Body)
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprintf(w, "%s %s host=%s body=%q", req.Method, req.RequestURI, req.Host, body)
			for name, values := range req.Header {
				fmt.Fprintf(w, " %s=%q", name, values)
			}
		}
		l := c.await()
		l.welcome("t")
		l.next(link.KindSynced)
		answer, body := r.ask("POST /commands/close?a=b%20c;d HTTP/1.1\nX-Streaming-Channel: ch\nAuthorization: Bearer x\nForwarded: for=1.2.3.4\nX-Forwarded-For: 1.2.3.4\n" +
			"X-Forwarded-Host: evil\nX-Forwarded-Port: 1\nX-Forwarded-Prefix: /x\nUpgrade: websocket\nConnection: Upgrade, X-Custom\nX-Custom: 1\nExpect: 100-continue\nIdempotency-Key: k\nContent-Length: 0\n")
		if answer == nil || answer.StatusCode != http.StatusTeapot || answer.Header.Get("Retry-After") != "7" {
			t.Fatal(answer, body)
		}
		for _, part := range []string{"POST /commands/close?a=b%20c;d ", "host=c1:80", `body=""`, `X-Streaming-Channel=["ch"]`, `Authorization=["Bearer x"]`} {
			if !strings.Contains(body, part) {
				t.Errorf("%s is missing in %s", part, body)
			}
		}
		for _, part := range []string{"Forwarded", "1.2.3.4", "Upgrade", "Custom", "Expect", "Idempotency", "User-Agent"} {
			if strings.Contains(body, part) {
				t.Errorf("%s is in %s", part, body)
			}
		}
		if _, body = r.ask("GET /commands/a%2520b%2Fc HTTP/1.1\n"); !strings.Contains(body, "GET /commands/a%2520b/c ") {
			t.Error(body)
		}
	})
}

func TestRequestWaitsForACoordinatorAndThenIsTurnedAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		began := time.Now()
		answer, body := r.ask("GET /commands/capacity HTTP/1.1\n")
		if answer == nil || answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" || body != `{"error":"no coordinator","code":"no_coordinator"}`+"\n" ||
			time.Since(began) != forwardWithin {
			t.Fatalf("%v %s after %v", answer, body, time.Since(began))
		}
		var asking sync.WaitGroup
		began = time.Now()
		asking.Go(func() {
			answer, body := r.ask("GET /commands/capacity HTTP/1.1\n")
			if answer == nil || body != "capacity" || time.Since(began) < 5*time.Second || time.Since(began) > 7*time.Second {
				t.Errorf("%v %s after %v", answer, body, time.Since(began))
			}
		})
		r.wait(5 * time.Second)
		c := r.coordinator("c1")
		c.other = func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "capacity") }
		l := c.await()
		l.welcome("t")
		l.next(link.KindSynced)
		asking.Wait()
	})
}

func TestOnly256RequestsWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		var asking sync.WaitGroup
		for range maxForwarded {
			asking.Go(func() { r.ask("GET / HTTP/1.1\n") })
		}
		synctest.Wait()
		began := time.Now()
		answer, body := r.ask("GET / HTTP/1.1\n")
		if answer == nil || answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" || time.Since(began) > 0 {
			t.Errorf("%v %s after %v", answer, body, time.Since(began))
		}
		asking.Wait()
	})
}

// A POST that the coordinator may have got is not sent again.
func TestPostThatWasSentIsNotRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "c1")
		c := r.coordinator("c1")
		var mu sync.Mutex
		asked := map[string]int{}
		c.other = func(w http.ResponseWriter, req *http.Request) {
			mu.Lock()
			asked[req.Method]++
			n := asked[req.Method]
			mu.Unlock()
			if n == 1 {
				return // so that the connection is used again
			}
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		}
		l := c.await()
		l.welcome("t")
		l.next(link.KindSynced)
		for range 2 {
			answer, body := r.ask("POST /commands/close HTTP/1.1\nIdempotency-Key: k\nX-Idempotency-Key: k\n")
			if asked["POST"] == 2 && (answer == nil || answer.StatusCode != http.StatusBadGateway || !strings.Contains(body, "not known")) {
				t.Errorf("%v %s", answer, body)
			}
		}
		if asked["POST"] != 2 {
			t.Errorf("it was sent %d times", asked["POST"]-1)
		}
	})
}

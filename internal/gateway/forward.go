package gateway

// Requests that are passed on to the coordinator, so that its application and operators need one address for peers and
// commands. None of them has a body. Whoever sends one waits for a coordinator that is away, but not for long.

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"coordinator/internal/httpjson"
)

const (
	forwardWithin = 10 * time.Second // that a request waits for a coordinator
	maxForwarded  = 256              // requests that wait at a time
	againAfter    = 500 * time.Millisecond
	answerWithout = 30 * time.Second // for the headers of the coordinator's answer
)

var (
	errNoCoordinator = errors.New("no coordinator")
	errTooMany       = errors.New("no coordinator, and too many requests wait for one")
)

// unconnected is a failure before anything was sent.
type unconnected struct{ error }

func (u unconnected) Unwrap() error { return u.error }

// forwarder is the http.Handler of what is passed on, and the transport that waits.
type forwarder struct {
	// set once
	g         *Gateway
	proxy     *httputil.ReverseProxy
	transport *http.Transport
	waiting   chan struct{} // one item for each request that waits
}

func newForwarder(g *Gateway) *forwarder {
	f := &forwarder{g: g, waiting: make(chan struct{}, maxForwarded)}
	f.transport = &http.Transport{ // HTTP/1.1, no proxy
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialLimit)
			defer cancel()
			conn, err := g.Dial(ctx, network, address)
			if err != nil {
				return nil, unconnected{err}
			}
			return conn, nil
		},
		TLSClientConfig:       g.TLS.Clone(),
		TLSHandshakeTimeout:   dialLimit,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       time.Minute,
		ResponseHeaderTimeout: answerWithout,
		DisableCompression:    true,
	}
	f.proxy = &httputil.ReverseProxy{
		Rewrite:      rewrite,
		Transport:    f,
		ErrorHandler: f.answerError,
		ErrorLog:     slog.NewLogLogger(g.Log.Handler(), slog.LevelDebug),
	}
	return f
}

// Forward passes requests on to the coordinator. Whoever calls it has made sure that their paths are clean.
func (g *Gateway) Forward(w http.ResponseWriter, r *http.Request) { g.forwarder.proxy.ServeHTTP(w, r) }

// rewrite makes the request that the coordinator gets. ReverseProxy has dropped Forwarded and X-Forwarded-*, which a client
// could have made up; what is left of hop-by-hop headers is its wish for another protocol. The path is encoded anew, from what
// the routes have looked at, and the query is left for the coordinator to judge.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL = &url.URL{Path: r.In.URL.Path, RawQuery: r.In.URL.RawQuery}
	r.Out.Host = "" // that of the coordinator's URL
	for _, name := range []string{"Upgrade", "Connection", "Expect", "Content-Length", "Idempotency-Key", "X-Idempotency-Key"} {
		r.Out.Header.Del(name) // with the last two, the transport would send a POST again
	}
	for name := range r.Out.Header {
		if strings.HasPrefix(name, "X-Forwarded-") {
			r.Out.Header.Del(name)
		}
	}
	r.Out.Body, r.Out.ContentLength, r.Out.TransferEncoding, r.Out.Trailer = nil, 0, nil, nil
}

// RoundTrip sends a request to the coordinator as soon as there is one. Only what was not begun to be sent is sent again.
func (f *forwarder) RoundTrip(r *http.Request) (*http.Response, error) {
	target, linked := f.g.coordinator()
	if target != nil {
		if answer, err := f.send(r, target); !errors.As(err, new(unconnected)) {
			return answer, err
		}
	}
	select {
	case f.waiting <- struct{}{}:
		defer func() { <-f.waiting }()
	default:
		return nil, errTooMany
	}
	ctx, cancel := context.WithTimeout(r.Context(), forwardWithin)
	defer cancel()
	for {
		select {
		case <-linked:
		case <-time.After(againAfter):
		case <-ctx.Done():
			if r.Context().Err() != nil {
				return nil, r.Context().Err()
			}
			return nil, errNoCoordinator
		}
		if target, linked = f.g.coordinator(); target == nil {
			continue
		}
		if answer, err := f.send(r, target); !errors.As(err, new(unconnected)) {
			return answer, err
		}
	}
}

func (f *forwarder) send(r *http.Request, target *url.URL) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.URL.Path = target.Scheme, target.Host, target.Path+r.URL.Path
	return f.transport.RoundTrip(out)
}

// coordinator is the one that is linked, or else the only one there is, once it was linked. Of several the one that was linked last
// may be deposed, and is not asked. linked is closed at the next link.
func (g *Gateway) coordinator() (target *url.URL, linked <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.link == nil && len(g.URLs) > 1 {
		return nil, g.linked
	}
	return g.target, g.linked
}

func (f *forwarder) answerError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil { // nobody waits for the answer
		panic(http.ErrAbortHandler)
	}
	if errors.Is(err, errNoCoordinator) || errors.Is(err, errTooMany) {
		w.Header().Set("Retry-After", "5")
		code := httpjson.NoCoordinator
		if errors.Is(err, errTooMany) {
			code = httpjson.TooManyWaiting
		}
		httpjson.Error(w, http.StatusServiceUnavailable, code, err.Error())
		return
	}
	f.g.Log.Warn("coordinator did not answer a request that was passed on", "reason", err.Error())
	httpjson.Error(w, http.StatusBadGateway, httpjson.NoAnswer, "the coordinator did not answer; whether it has done what was asked is not known")
}

func (f *forwarder) close() { f.transport.CloseIdleConnections() }

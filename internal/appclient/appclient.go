// Package appclient is HTTP towards the application, for key verification and event callbacks alike: a connection pool for
// each purpose, limits on everything the application controls, authorization, and errors that can be logged.
//
// Rules: a status is an answer, whatever the body does; redirects, proxies and cookies do not exist; nothing is retried
// here; an error holds nothing of the URL but its host, nothing of the request's headers and nothing of the reply.
//
// A machine of the application can die without closing its connections, which then take requests and never answer. So
// connections are given up after two seconds without use, and when one of them has kept silent, all that are idle go and
// requests from then on get new ones. What is left of a dead machine are requests that were sent to it within those two
// seconds, and each of them ends within its ten.
package appclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"coordinator/internal/secret"
)

const (
	AnswerTimeout       = 10 * time.Second               // from the call of Post to the status
	connectTimeout      = 5 * time.Second                // for TCP, and again for TLS
	DiscardTimeout      = time.Second                    // for the body of a reply
	IdleTimeout         = 2 * time.Second                // for an unused connection
	PoolLife            = 4*time.Minute + 30*time.Second // connections live a request longer: under 5 minutes
	maxReplyHeaderBytes = 64 << 10
	MaxReplyBodyBytes   = 64 << 10
)

var (
	errUnusableURL = errors.New("the application's URL cannot be used")
	errBrokenReply = errors.New("the application's reply broke off")

	// ErrUnreadableReply: an answer came that is not HTTP, or that is over the limits. Asking again would bring the same.
	ErrUnreadableReply = errors.New("the application's reply cannot be read as HTTP, or has more than 64 KiB of headers")

	// ErrDeadConnection: the request was lost with a connection that had carried others. It says nothing about the
	// application; the next request goes over a new one.
	ErrDeadConnection = errors.New("no byte of an answer on a connection that had been used before")
)

// Client posts to one URL of the application, which may be http or https. Any number of goroutines may use it.
type Client struct {
	// Transport is what all pools are copies of. Tests set how it dials and whom it trusts, while nothing is posted: before
	// the first Post, or before a Close, after which a new pool begins.
	Transport *http.Transport

	// Set once.
	request       *http.Request // what all requests have in common; nil if the URL cannot be used
	authorization []string      // header values: one, or none
	userAgent     []string      // likewise

	mu   sync.Mutex
	pool *connPool // guarded by mu; nil before the next request
}

// connPool is the connections of some minutes. When it is left, its idle ones are closed, and the others as they become idle.
type connPool struct {
	*http.Transport
	began time.Time
}

// New makes a client that opens at most maxConns connections at once, and keeps as many for the next requests.
// authorization is the whole value of the header; if it is empty, the URL's user and password count.
func New(url, authorization secret.Secret, maxConns int, userAgent string) *Client {
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	c := &Client{
		userAgent: []string{userAgent},
		Transport: &http.Transport{
			Protocols:              http1,
			DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSHandshakeTimeout:    connectTimeout,
			MaxConnsPerHost:        maxConns,
			MaxIdleConnsPerHost:    maxConns,
			IdleConnTimeout:        IdleTimeout,
			MaxResponseHeaderBytes: maxReplyHeaderBytes,
			ReadBufferSize:         2 << 10, // requests and replies are short, connections many
			WriteBufferSize:        2 << 10,
			DisableCompression:     true,
		},
	}
	request, err := http.NewRequest(http.MethodPost, url.Reveal(), nil)
	if err != nil {
		return c
	}
	if user := request.URL.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization.Reveal())
	}
	c.request, c.authorization = request, request.Header["Authorization"]
	return c
}

// Post sends an empty body with the given headers and returns the status and headers of the reply. It waits 10 s for
// the status at most, less if ctx ends, and then up to 1 s for a body that is slow: what is not over by then, or is
// longer than 64 KiB, costs the connection but not the answer.
//
// An error means that there was no answer; it wraps the context's error if that is why, and ErrDeadConnection if the
// request went over a connection that was dead, as far as one can see; or that the answer could not be read, which is
// ErrUnreadableReply. The caller decides what is sent again. The header is Post's from then on, but may be given again.
func (c *Client) Post(ctx context.Context, header http.Header) (status int, replyHeader http.Header, err error) {
	if c.request == nil {
		return 0, nil, errUnusableURL
	}
	within, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	var connected, reused, replying atomic.Bool
	var carrier atomic.Pointer[watchedConn]
	request := c.request.WithContext(httptrace.WithClientTrace(within, &httptrace.ClientTrace{
		GotConn: func(conn httptrace.GotConnInfo) {
			connected.Store(true)
			reused.Store(conn.Reused)
			carrier.Store(watchedBeneath(conn.Conn))
		},
		GotFirstResponseByte: func() { replying.Store(true) },
	}))
	if request.Header = header; header == nil {
		request.Header = http.Header{}
	}
	if request.Header["User-Agent"] == nil { // an earlier request may still be reading the header
		request.Header["User-Agent"] = c.userAgent
		if c.authorization != nil {
			request.Header["Authorization"] = c.authorization
		}
	}

	pool := c.youngPool()
	// Not through an http.Client: it fails on a redirect whose Location it cannot parse, and its errors quote the URL.
	reply, err := pool.RoundTrip(request)
	switch {
	case err == nil:
		discardBody(reply.Body)
		return reply.StatusCode, reply.Header, nil
	case within.Err() != nil:
		err = within.Err()
	case replying.Load(): // err may quote the reply, which may repeat the request
		if conn := carrier.Load(); conn != nil && conn.ended.Load() {
			return 0, nil, errBrokenReply
		}
		return 0, nil, ErrUnreadableReply
	}
	err = fmt.Errorf("post to the application: %w", err)
	if connected.Load() && !replying.Load() && ctx.Err() == nil && (reused.Load() || within.Err() != nil) {
		c.leave(pool)
		if reused.Load() {
			err = fmt.Errorf("%w: %w", ErrDeadConnection, err)
		}
	}
	return 0, nil, err
}

// watchedConn remembers whether reading has come to an end. net/http does not tell: what broke off within a line of a reply
// is a malformed line to it.
type watchedConn struct {
	net.Conn
	ended atomic.Bool
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.ended.Store(true)
	}
	return n, err
}

func watchedBeneath(conn net.Conn) *watchedConn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	watched, _ := conn.(*watchedConn)
	return watched
}

func watched(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &watchedConn{Conn: conn}, nil
	}
}

// youngPool is where requests go now. No pool gets old, so that a name that moves is followed, under steady traffic too.
func (c *Client) youngPool() *connPool {
	pool := c.currentPool()
	if time.Since(pool.began) < PoolLife {
		return pool
	}
	c.leave(pool)
	return c.currentPool()
}

func (c *Client) currentPool() *connPool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pool == nil {
		c.pool = &connPool{c.Transport.Clone(), time.Now()}
		c.pool.DialContext = watched(c.pool.DialContext)
	}
	return c.pool
}

// leave gives up a pool, unless that has been done: many of its connections may be found dead one after the other, which
// says nothing about those of the next pool. Requests under way go on.
func (c *Client) leave(pool *connPool) {
	if c.forget(pool) {
		pool.CloseIdleConnections()
	}
}

func (c *Client) forget(pool *connPool) (done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pool != pool {
		return false
	}
	c.pool = nil
	return true
}

// discardBody reads a body to its end, within the limits, so that its connection can be used again, and closes it.
// The timer closes the body because a context does not reach the connection of a 101 reply.
func discardBody(body io.ReadCloser) {
	if body == http.NoBody {
		return
	}
	defer body.Close()
	defer time.AfterFunc(DiscardTimeout, func() { body.Close() }).Stop()
	_, _ = io.CopyN(io.Discard, body, MaxReplyBodyBytes+1) // one more, to meet the end of a body of exactly that length
}

// Close gives up the idle connections. Connections in use are given up when their request ends.
func (c *Client) Close() { c.leave(c.currentPool()) }

// HeaderValue makes any value fit for a header. One that can be carried stays exactly as it is. In one that cannot,
// the bytes in the way (control characters, bytes from 0x7f on, a space at either end, which receivers trim) become
// %XX, and so does every '%': percent-decoding such a value gives back the original.
func HeaderValue(value string) string {
	inTheWay := func(i int) bool {
		b := value[i]
		return b < ' ' || b >= 0x7f || b == ' ' && (i == 0 || i == len(value)-1)
	}
	carried := true
	for i := range len(value) {
		carried = carried && !inTheWay(i)
	}
	if carried {
		return value
	}
	var encoded strings.Builder
	for i := range len(value) {
		if value[i] == '%' || inTheWay(i) {
			fmt.Fprintf(&encoded, "%%%02X", value[i])
		} else {
			encoded.WriteByte(value[i])
		}
	}
	return encoded.String()
}

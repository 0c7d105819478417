package main

// HTTP towards the application, for key verification and event callbacks alike: a connection pool for each purpose,
// limits on everything the application controls, authorization, and errors that can be logged.
//
// Rules: a status is an answer, whatever the body does; redirects, proxies and cookies do not exist; nothing is retried
// here; an error holds nothing of the URL but its host, nothing of the request's headers and nothing of the reply.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
)

const (
	answerTimeout       = 10 * time.Second // from the call of post to the status
	connectTimeout      = 5 * time.Second  // for TCP, and again for TLS
	drainTimeout        = time.Second      // for the body of a reply
	idleTimeout         = 90 * time.Second // for an unused connection
	maxReplyHeaderBytes = 64 << 10
	maxReplyBodyBytes   = 64 << 10
)

var (
	errUnusableURL = errors.New("the application's URL cannot be used")
	errBrokenReply = errors.New("the application's reply broke off or cannot be read")
)

// appClient posts to one URL of the application, which may be http or https. Any number of goroutines may use it.
type appClient struct {
	// Set once.
	request       *http.Request // what all requests have in common; nil if the URL cannot be used
	authorization []string      // header values: one, or none
	transport     *http.Transport
}

// newAppClient makes a client that opens at most maxConns connections at once, and keeps as many for the next requests.
// authorization is the whole value of the header; if it is empty, the URL's user and password count.
func newAppClient(url Secret, authorization Secret, maxConns int) *appClient {
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	c := &appClient{
		transport: &http.Transport{
			Protocols:              http1,
			DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSHandshakeTimeout:    connectTimeout,
			MaxConnsPerHost:        maxConns,
			MaxIdleConnsPerHost:    maxConns,
			IdleConnTimeout:        idleTimeout,
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

// post sends an empty body with the given headers and returns the status and headers of the reply. It waits 10 s for
// the status at most, less if ctx ends, and then up to 1 s for a body that is slow: what is not over by then, or is
// longer than 64 KiB, costs the connection but not the answer.
//
// An error means that there was no answer; it wraps the context's error if that is why. A connection that the
// application closed while it was idle can end in an error too: the caller decides what is sent again. The header is
// post's from then on, but may be given again.
func (c *appClient) post(ctx context.Context, header http.Header) (status int, replyHeader http.Header, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var replying atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() { replying.Store(true) }})

	if c.request == nil {
		return 0, nil, errUnusableURL
	}
	request := c.request.WithContext(ctx)
	if request.Header = header; header == nil {
		request.Header = http.Header{}
	}
	if c.authorization != nil && request.Header["Authorization"] == nil { // an earlier request may still be reading it
		request.Header["Authorization"] = c.authorization
	}

	// Not through an http.Client: it fails on a redirect whose Location it cannot parse, and its errors quote the URL.
	reply, err := c.transport.RoundTrip(request)
	switch {
	case err == nil:
		drain(reply.Body)
		return reply.StatusCode, reply.Header, nil
	case ctx.Err() != nil:
		return 0, nil, fmt.Errorf("post to the application: %w", ctx.Err())
	case replying.Load():
		return 0, nil, errBrokenReply // err quotes the reply, which may repeat the request
	default:
		return 0, nil, fmt.Errorf("post to the application: %w", err)
	}
}

// drain reads a body to its end, within the limits, so that its connection can be used again, and closes it.
// The timer closes the body because a context does not reach the connection of a 101 reply.
func drain(body io.ReadCloser) {
	if body == http.NoBody {
		return
	}
	defer body.Close()
	defer time.AfterFunc(drainTimeout, func() { body.Close() }).Stop()
	_, _ = io.CopyN(io.Discard, body, maxReplyBodyBytes+1) // one more, to meet the end of a body of exactly that length
}

// close gives up the idle connections. Connections in use are given up when their request ends.
func (c *appClient) close() {
	c.transport.CloseIdleConnections()
}

// headerValue makes any value fit for a header. One that can be carried stays exactly as it is. In one that cannot,
// the bytes in the way (control characters, bytes from 0x7f on, a space at either end, which receivers trim) become
// %XX, and so does every '%': percent-decoding such a value gives back the original.
func headerValue(value string) string {
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

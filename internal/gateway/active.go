package gateway

// A link that is made: its reader and its writer. Any byte from the coordinator is a sign of life.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"coordinator/internal/link"

	"github.com/gorilla/websocket"
)

const (
	silenceLimit = 10 * time.Second
	writeLimit   = 10 * time.Second
	ackEvery     = 100 * time.Millisecond // while frames come
	pingEvery    = 3 * time.Second

	// maxSent is where a WebSocket message ends, if there is more to send.
	maxSent = 1 << 20
	// maxReceived bounds a WebSocket message of the coordinator: the longest frame, and some more.
	maxReceived = 2 * link.MaxFrameBytes
)

var (
	errOverflow = errors.New("coordinator acknowledges nothing")
	errSilent   = errors.New("coordinator has said nothing for 10 s")
	errSlow     = errors.New("coordinator has not read for 10 s")
	errText     = errors.New("coordinator sent a text message")
	errClosed   = errors.New("coordinator closed the link")
)

// byeError is how a coordinator ends a link.
type byeError struct{ words string }

func (e byeError) Error() string { return "coordinator says: " + e.words }

// activeLink is a link after its WELCOME.
type activeLink struct {
	ws   *websocket.Conn
	end  context.CancelCauseFunc // closes the socket; the first cause counts
	wake chan struct{}           // has room for one

	unsure atomic.Bool // what the coordinator has last said of its lead; true before it has said anything

	// guarded by Gateway.mu
	queue   []link.Frame
	closing bool // nothing comes behind what is queued
}

func (l *activeLink) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// serve is the link until it ends. rest is what has come with the WELCOME.
func (g *Gateway) serve(ctx context.Context, l *activeLink, rest []byte) error {
	written := make(chan struct{})
	go func() {
		defer close(written)
		g.write(ctx, l)
	}()
	err := g.take(l, rest)
	for buffer := new(bytes.Buffer); err == nil; {
		if err = receive(l.ws, buffer); err == nil {
			err = g.take(l, buffer.Bytes())
		}
		if buffer.Cap() > maxSent { // not kept for what may never come again
			buffer = new(bytes.Buffer)
		}
	}
	l.end(err)
	<-written
	return context.Cause(ctx)
}

// receive reads a WebSocket message.
func receive(ws *websocket.Conn, buffer *bytes.Buffer) error {
	buffer.Reset()
	ws.SetReadDeadline(time.Now().Add(silenceLimit))
	kind, r, err := ws.NextReader()
	if err == nil && kind != websocket.BinaryMessage {
		return errText
	}
	if err == nil {
		_, err = buffer.ReadFrom(living{ws, r})
	}
	return plainly(err, errSilent)
}

// living puts off the end of a silence with each byte.
type living struct {
	ws *websocket.Conn
	r  io.Reader
}

func (l living) Read(b []byte) (int, error) {
	l.ws.SetReadDeadline(time.Now().Add(silenceLimit))
	return l.r.Read(b)
}

// plainly says in words of our own what has ended a link.
func plainly(err, timedOut error) error {
	var timeout net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &timeout) && timeout.Timeout():
		return timedOut
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, new(*websocket.CloseError)):
		return errClosed
	}
	return err
}

// take takes in the frames of a WebSocket message.
func (g *Gateway) take(l *activeLink, message []byte) error {
	g.bytesIn.Add(int64(len(message)))
	for len(message) > 0 {
		f, rest, err := link.Next(message)
		if err != nil {
			return err
		}
		message = rest
		if err := g.takeFrame(l, f); err != nil {
			return err
		}
	}
	return nil
}

func (g *Gateway) takeFrame(l *activeLink, f link.Frame) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heard = time.Now()
	if g.link != l {
		return nil // it is ending
	}
	if f.Kind != link.KindBye || f.Number != 0 {
		l.hearDoubt(f)
		frames, orders, err := g.id.receive(f)
		if err != nil {
			return err
		}
		g.doLocked(frames, orders)
	}
	if f.Kind == link.KindBye {
		var bye link.Reason
		if err := f.Read(&bye); err != nil {
			return err
		}
		return byeError{bye.Text}
	}
	return nil
}

// hearDoubt looks whether the coordinator says that it may not lead any more.
func (l *activeLink) hearDoubt(f link.Frame) {
	var ack link.Count
	if f.Kind == link.KindAck && f.Read(&ack) == nil {
		l.unsure.Store(ack.Unsure)
	}
}

// write is the link's writer.
func (g *Gateway) write(ctx context.Context, l *activeLink) {
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	var message []byte
	acked := time.Now()
	for {
		select {
		case <-l.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		frames, closing := g.toSend(l, &acked)
		for i, f := range frames {
			message = f.Append(message)
			if len(message) < maxSent && i < len(frames)-1 {
				continue
			}
			l.ws.SetWriteDeadline(time.Now().Add(writeLimit))
			if err := l.ws.WriteMessage(websocket.BinaryMessage, message); err != nil {
				l.end(plainly(err, errSlow))
				return
			}
			g.bytesOut.Add(int64(len(message)))
			message = message[:0]
		}
		if cap(message) > 2*maxSent {
			message = nil
		}
		if closing { // the reader awaits the coordinator's end
			l.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), time.Now().Add(goodbyeWithin))
			return
		}
	}
}

// toSend takes what is queued, and what is to be acknowledged.
func (g *Gateway) toSend(l *activeLink, acked *time.Time) (frames []link.Frame, closing bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	frames, l.queue = l.queue, nil
	if g.link != l {
		return frames, l.closing
	}
	now := time.Now()
	if now.Sub(*acked) >= ackEvery {
		if ack, due := g.id.acknowledgement(now.Sub(*acked) >= pingEvery); due {
			frames, *acked = append(frames, ack), now
		}
	}
	return frames, false
}

package linkserver

// The WebSocket of one link: what is read from it and written to it, until it ends. What frames say is not looked at here.

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"coordinator/internal/door"
	"coordinator/internal/link"

	"github.com/gorilla/websocket"
)

const (
	helloLimit   = 5 * time.Second
	maxHello     = 16 << 10
	silence      = 10 * time.Second // of the gateway, and of a write
	ackEvery     = 100 * time.Millisecond
	pingEvery    = 3 * time.Second
	goodbyeLimit = time.Second

	readBuffer = 32 << 10
	maxBatch   = 1 << 20 // after which no frame is added to a write
)

// fault is something that a gateway must not send. What it says is constant.
type fault struct{ error }

// Why links end.
var (
	errStopping = errors.New("coordinator is stopping")
	errSilent   = errors.New("silent for 10 s")
	errStalled  = errors.New("has not read for 10 s")
	errClosed   = errors.New("closed by the gateway")
	errBroken   = errors.New("connection lost")
	errReplaced = errors.New("the gateway has made another link")
	errIsLost   = errors.New("the gateway is lost")

	errNotBinary  = fault{errors.New("message is not binary")}
	errUnreadable = fault{errors.New("frame can't be read")}
	errTooLong    = fault{errors.New("frame is too long")}
	errGap        = fault{errors.New("a frame is missing")}
	errNotSent    = fault{errors.New("acknowledges a frame that was not sent")}
	errUnexpected = fault{errors.New("frame of a kind that only coordinators send, or at the wrong time")}
	errNoSession  = fault{errors.New("frame is about no session")}
	errHelloLate  = fault{errors.New("no HELLO within 5 s")}
	errNoHello    = fault{errors.New("first message is not HELLO alone")}
)

// timedConn gives each read from the network the time until a gateway counts as silent: any byte is a sign of life, since a
// long frame takes its time. Time in which nothing is read does not count.
type timedConn struct {
	net.Conn
	until time.Time // of HELLO; zero after it
}

func (c *timedConn) Read(b []byte) (int, error) {
	until := c.until
	if until.IsZero() {
		until = time.Now().Add(silence)
	}
	if err := c.Conn.SetReadDeadline(until); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// connection is a link. Whoever has it must call end.
type connection struct {
	// set once
	ws     *websocket.Conn
	timed  *timedConn // beneath ws
	remote string
	hello  link.Hello
	spoken uint32 // protocol

	in      *bufio.Reader // of the message that is read now
	batches chan []link.Frame
	wake    chan struct{} // for the writer
	over    chan struct{} // closed by the first end

	goroutines sync.WaitGroup // reader and writer

	// of Gateway.run
	welcomed bool
	useless  bool // what comes is not looked at any more

	mu sync.Mutex
	// guarded by mu
	reason error
}

func newConnection(ws *websocket.Conn, timed *timedConn, remote string) *connection {
	return &connection{
		ws: ws, timed: timed, remote: remote,
		in: bufio.NewReaderSize(nil, readBuffer), batches: make(chan []link.Frame), wake: make(chan struct{}, 1), over: make(chan struct{}),
	}
}

// end closes the socket. The first reason counts. It never waits.
func (c *connection) end(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != nil {
		return
	}
	c.reason = reason
	close(c.over)
	door.CloseNow(c.timed.Conn)
}

func (c *connection) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// read is the reader: it hands over the frames that came together. Whoever takes them has to do so until there are no more.
func (c *connection) read() {
	defer close(c.batches)
	for {
		if err := c.readMessage(); err != nil {
			c.end(err)
			return
		}
	}
}

func (c *connection) readMessage() error {
	kind, message, err := c.ws.NextReader()
	if err != nil {
		return endOf(err)
	}
	if kind != websocket.BinaryMessage {
		return errNotBinary
	}
	c.in.Reset(message)
	var batch []link.Frame
	handOver := func() {
		if len(batch) > 0 {
			c.batches <- batch
			batch = nil
		}
	}
	defer handOver() // what has come before an error, too
	for {
		if c.in.Buffered() == 0 {
			handOver()
		}
		length, err := c.readLength()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if length > c.in.Buffered() {
			handOver() // the rest may take its time
		}
		f, err := c.readFrame(length)
		if err != nil {
			return err
		}
		batch = append(batch, f)
	}
}

// readFrame reads one frame, whose memory is its own.
func (c *connection) readFrame(length int) (link.Frame, error) {
	head := binary.AppendUvarint(nil, uint64(length))
	raw, err := readAll(c.in, head, length)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return link.Frame{}, errUnreadable
	} else if err != nil {
		return link.Frame{}, endOf(err)
	}
	f, _, err := link.Next(raw)
	if err != nil {
		return link.Frame{}, errUnreadable
	}
	return f, nil
}

// readLength reads what a frame begins with. io.EOF is the end of the message.
func (c *connection) readLength() (length int, err error) {
	for i := range binary.MaxVarintLen32 {
		b, err := c.in.ReadByte()
		switch {
		case err == io.EOF && i == 0:
			return 0, io.EOF
		case err == io.EOF:
			return 0, errUnreadable
		case err != nil:
			return 0, endOf(err)
		}
		length |= int(b&0x7f) << (7 * i)
		if b < 0x80 {
			if length > link.MaxFrameBytes {
				return 0, errTooLong
			}
			return length, nil
		}
	}
	return 0, errTooLong
}

// readAll takes no more memory than has come, or little.
func readAll(r io.Reader, head []byte, n int) ([]byte, error) {
	const little = 64 << 10
	if n <= little {
		raw := make([]byte, len(head)+n)
		copy(raw, head)
		_, err := io.ReadFull(r, raw[len(head):])
		return raw, err
	}
	raw := bytes.NewBuffer(append(make([]byte, 0, little), head...))
	_, err := io.CopyN(raw, r, int64(n))
	return raw.Bytes(), err
}

func endOf(err error) error {
	var closed *websocket.CloseError
	switch {
	case isTimeout(err):
		return errSilent
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		return errClosed
	}
	return errBroken
}

// isTimeout asks for the behaviour, because the library hides os.ErrDeadlineExceeded.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// readHello reads the first message.
func (c *connection) readHello() error {
	c.ws.SetReadLimit(maxHello)
	kind, message, err := c.ws.NextReader()
	if err != nil {
		return helloEnd(err)
	}
	raw, err := io.ReadAll(message)
	if err != nil {
		return helloEnd(err)
	}
	f, rest, err := link.Next(raw)
	if kind != websocket.BinaryMessage || err != nil || f.Kind != link.KindHello || len(rest) > 0 {
		return errNoHello
	}
	if err := f.Read(&c.hello); err != nil {
		return errUnreadable
	}
	c.ws.SetReadLimit(0) // frames have their own, and a message has any number of them
	c.timed.until = time.Time{}
	return nil
}

func helloEnd(err error) error {
	switch reason := endOf(err); {
	case reason == errSilent:
		return errHelloLate
	case errors.Is(err, websocket.ErrReadLimit):
		return errNoHello
	default:
		return reason
	}
}

// write is the writer. next appends what is to be written now to b; last says that there will be no more.
func (c *connection) write(next func(b []byte, pingDue bool) (batch []byte, last bool)) {
	ticker := time.NewTicker(ackEvery)
	defer ticker.Stop()
	var buffer []byte
	written := time.Now()
	for {
		batch, last := next(buffer[:0], time.Since(written) >= pingEvery)
		if len(batch) > 0 {
			if err := c.writeMessage(batch, silence); err != nil {
				c.end(err)
				return
			}
			written = time.Now()
			if buffer = batch; cap(buffer) > 2*maxBatch {
				buffer = nil
			}
			continue
		}
		if last {
			c.writeClose()
			return
		}
		select {
		case <-c.wake:
		case <-ticker.C:
		case <-c.over:
			return
		}
	}
}

func (c *connection) writeMessage(b []byte, limit time.Duration) error {
	c.ws.SetWriteDeadline(time.Now().Add(limit))
	err := c.ws.WriteMessage(websocket.BinaryMessage, b)
	switch {
	case err == nil:
		return nil
	case isTimeout(err):
		return errStalled
	}
	return errBroken
}

func (c *connection) writeClose() {
	goodbye := websocket.FormatCloseMessage(websocket.CloseGoingAway, "")
	_ = c.ws.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(goodbyeLimit)) // a courtesy
}

// drain waits until the gateway has closed the connection, goodbyeLimit at most, and drops what comes. Closing a socket with
// unread data resets it, and the gateway would not see what was said last.
func (c *connection) drain() {
	timer := time.AfterFunc(goodbyeLimit, func() { c.end(errStopping) })
	defer timer.Stop()
	for range c.batches {
	}
	c.goroutines.Wait()
}

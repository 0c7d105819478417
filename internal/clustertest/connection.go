package clustertest

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
)

// Connection is a peer's control connection: what tests (see Peer) and the load tool share. It is light, because the load
// tool has thousands of them on the machine on which it measures: it writes from one buffer, and reads into one.
type Connection struct {
	Conn *websocket.Conn

	writing sync.Mutex
	message []byte // guarded by writing
}

// Connect dials a control endpoint. header is name, value, name, value ...
func Connect(ctx context.Context, url string, dialer *websocket.Dialer, header ...string) (*Connection, *http.Response, error) {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	conn, res, err := dialer.DialContext(ctx, url, h)
	if err != nil {
		return nil, res, err
	}
	return &Connection{Conn: conn}, res, nil
}

// Token is what a peer shows a coordinator that has the CONTROL_SECRET.
func Token(secret, subject string) (string, error) {
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": subject}).SignedString([]byte(secret))
}

// Say writes a message as it is given, with line breaks and all. args is name, value, name, value ... It waits while the
// coordinator does not read. Whoever reads finds the end of the connection, too, so the error may be ignored.
func (c *Connection) Say(method string, args ...string) error { return c.say(":", method, args) }

func (c *Connection) say(colon, method string, args []string) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	m := append(append(c.message[:0], method...), '\n')
	for i := 0; i < len(args); i += 2 {
		m = append(append(append(append(m, args[i]...), colon...), args[i+1]...), '\n')
	}
	c.message = m
	return c.Conn.WriteMessage(websocket.TextMessage, m)
}

// SendRaw writes a WebSocket message of any kind.
func (c *Connection) SendRaw(kind int, data string) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.Conn.WriteMessage(kind, []byte(data))
}

// Each hands on each message until the connection ends, and returns why it ended. The message is valid until handle
// returns.
func (c *Connection) Each(handle func(message []byte)) error {
	buffer := make([]byte, 512)
	for {
		_, reader, err := c.Conn.NextReader()
		if err != nil {
			return err
		}
		n := 0
		for {
			if n == len(buffer) {
				buffer = append(buffer, make([]byte, len(buffer))...)
			}
			k, err := reader.Read(buffer[n:])
			n += k
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
		handle(buffer[:n])
	}
}

// Cut ends the connection without a goodbye, as a power failure does.
func (c *Connection) Cut() { c.Conn.NetConn().Close() }

package gateway

// How a gateway finds its coordinator: it asks its URLs in turn, says HELLO, and looks at who answers.

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"coordinator/internal/door"
	"coordinator/internal/link"

	"github.com/gorilla/websocket"
)

const (
	dialLimit    = 2 * time.Second
	welcomeLimit = 10 * time.Second
	maxWelcome   = 64 << 10

	// A coordinator is asked for twice a second for the first minute, then more rarely.
	askEvery       = 500 * time.Millisecond
	askRarelyAfter = time.Minute
	askRarely      = 2 * time.Second

	// otherStoreAfter is how long no URL must have had the store that is known, before another one is followed.
	otherStoreAfter = 30 * time.Second

	sayTroubleEvery = time.Minute
	linksSaid       = 10 // a minute
)

var (
	errNoProof    = errors.New("whoever answers has not proved that it has the GATEWAY_SECRET: is COORDINATOR_URL right, and is the GATEWAY_SECRET the same at both?")
	errNoWelcome  = errors.New("the answer to HELLO is neither WELCOME nor REFUSE")
	errProtocol   = errors.New("coordinator wants a protocol that this version does not know: update this gateway")
	errEpoch      = errors.New("coordinator no longer leads: another one has begun to")
	errOtherStore = errors.New("coordinator has another store (DATA_DIR or DATABASE_URL) than the one that the live streams here belong to")
	errGone       = errors.New("the coordinator took this gateway for gone")
	errAnew       = errors.New("this gateway begins anew")
)

// keepLink keeps a link until ctx ends or the gateway stops.
func (g *Gateway) keepLink(ctx context.Context) {
	t := troubles{g: g, alone: time.Now(), said: map[string]string{}}
	for {
		began := time.Now()
		for _, c := range g.candidates(ctx, &t) {
			linked, err := g.linkOnce(ctx, c, &t)
			if ctx.Err() != nil || g.isStopping() {
				return
			}
			if linked {
				t.lost(c.url, err)
				break
			}
			if errors.Is(err, errAnew) { // this one is asked again
				break
			}
			t.failed(c.url, err)
		}
		every := askEvery
		if time.Since(t.alone) >= askRarelyAfter {
			every = askRarely
		}
		select {
		case <-time.After(time.Until(began.Add(every))):
		case <-ctx.Done():
			return
		}
	}
}

func (g *Gateway) isStopping() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stopping
}

// linkOnce tries one coordinator. If it comes to a link it returns when that has ended, and why.
func (g *Gateway) linkOnce(ctx context.Context, c leaderAnswer, t *troubles) (linked bool, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	ws, err := g.dial(ctx, c.url)
	if err != nil {
		return false, err
	}
	closeSocket := func() { door.CloseNow(ws.NetConn()) }
	defer closeSocket()
	defer context.AfterFunc(ctx, closeSocket)()
	l := &activeLink{ws: ws, end: end, wake: make(chan struct{}, 1)}
	l.unsure.Store(true)
	if len(g.URLs) > 1 {
		g.lookOut(ctx, l, c.epoch)
	}
	w, rest, err := g.greet(ws)
	if cause := context.Cause(ctx); cause != nil {
		return false, cause // what else has failed follows from it
	}
	if err != nil {
		return false, err
	}
	if !w.ControlSame {
		g.Log.Warn("coordinator has another CONTROL_SECRET: a peer that connects here may be refused there, and the other way round; set the same at both", "url", c.url.String())
	}
	resumed, sessions, err := g.begin(l, c.url, w)
	if err != nil {
		return false, err
	}
	t.linked(c.url, w, resumed, sessions)
	err = g.serve(ctx, l, rest)
	g.unlink(l)
	return true, err
}

// greet says HELLO and takes in the answer. rest is what has come behind it.
func (g *Gateway) greet(ws *websocket.Conn) (w link.Welcome, rest []byte, err error) {
	nonce := make([]byte, 32)
	rand.Read(nonce)
	if err := g.sayHello(ws, nonce); err != nil {
		return w, nil, err
	}
	first, message, more, err := awaitAnswer(ws)
	if err != nil {
		return w, nil, err
	}
	if w, err = g.judge(first, nonce); err != nil {
		return w, nil, err
	}
	if _, err := message.ReadFrom(living{ws, more}); err != nil {
		return w, nil, plainly(err, errSilent)
	}
	_, rest, err = link.Next(message.Bytes())
	return w, rest, err
}

func (g *Gateway) dial(ctx context.Context, u *url.URL) (*websocket.Conn, error) {
	token, err := link.Token(g.Secret, time.Now())
	if err != nil {
		return nil, fmt.Errorf("sign token: %w", err)
	}
	target := *u
	target.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	target.Path += link.Path
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	dialer := websocket.Dialer{NetDialContext: g.Dial, TLSClientConfig: g.TLS, ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10}
	ws, answer, err := dialer.DialContext(ctx, target.String(), http.Header{link.TokenHeader: {token}})
	if err != nil {
		if answer != nil {
			return nil, statusError(answer.StatusCode)
		}
		return nil, err
	}
	ws.SetReadLimit(maxReceived)
	return ws, nil
}

// statusError is an answer that is no link.
func statusError(status int) error {
	hint := ""
	switch status {
	case http.StatusForbidden, http.StatusUnauthorized:
		hint = ": is the GATEWAY_SECRET the same at both, and are the clocks right?"
	case http.StatusNotFound:
		hint = ": is GATEWAY_SECRET set at the coordinator, and the path of COORDINATOR_URL right?"
	case http.StatusServiceUnavailable:
		hint = ": it takes no links now"
	}
	return fmt.Errorf("coordinator answered with status %d%s", status, hint)
}

func (g *Gateway) sayHello(ws *websocket.Conn, nonce []byte) error {
	hello := g.hello()
	hello.Nonce, hello.ControlMAC = nonce, link.MAC(g.ControlSecret, nonce)
	hello.Oldest, hello.Newest, hello.Version = link.Oldest, link.Protocol, g.Version
	ws.SetWriteDeadline(time.Now().Add(dialLimit))
	return plainly(ws.WriteMessage(websocket.BinaryMessage, link.With(link.KindHello, 0, &hello).Append(nil)), errSlow)
}

func (g *Gateway) hello() link.Hello {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.id.hello()
}

// awaitAnswer reads the first frame. It takes no more than that of somebody who has proved nothing: the rest of the message
// comes from more.
func awaitAnswer(ws *websocket.Conn) (first link.Frame, message *bytes.Buffer, more io.Reader, err error) {
	ws.SetReadDeadline(time.Now().Add(welcomeLimit))
	kind, more, err := ws.NextReader()
	if err == nil && kind != websocket.BinaryMessage {
		err = errText
	}
	message = new(bytes.Buffer)
	if err == nil {
		_, err = message.ReadFrom(io.LimitReader(more, maxWelcome))
	}
	if err == nil {
		first, _, err = link.Next(message.Bytes())
	}
	return first, message, more, plainly(err, errSilent)
}

// judge tells whether the answer to a HELLO is one to link with. What a refusal wants is done.
func (g *Gateway) judge(first link.Frame, nonce []byte) (w link.Welcome, err error) {
	switch first.Kind {
	case link.KindWelcome:
		err = first.Read(&w)
		switch {
		case err != nil:
			return w, err
		case !link.Proves(w.Proof, g.Secret, nonce):
			return w, errNoProof
		case w.Protocol < link.Oldest || w.Protocol > link.Protocol:
			return w, errProtocol
		case w.Store == "" || w.Term == "":
			return w, errNoWelcome
		case w.Epoch < g.highestEpoch():
			return w, errEpoch
		}
		return w, g.follow(w.Store)
	case link.KindRefuse:
		var refuse link.Refuse
		switch err = first.Read(&refuse); {
		case err != nil:
			return w, err
		case !link.Proves(refuse.Proof, g.Secret, nonce):
			return w, errNoProof
		case refuse.Gone:
			closed := g.becomeAnother(errGone)
			g.Log.Error("coordinator took this gateway for gone; it begins anew, and the streams of its sockets have ended",
				"reason", refuse.Reason, "sockets_closed", closed)
			return w, errAnew
		case refuse.Store != "":
			if err := g.follow(refuse.Store); err != nil {
				return w, err
			}
		}
		return w, fmt.Errorf("coordinator refuses: %s", refuse.Reason)
	}
	return w, errNoWelcome
}

func (g *Gateway) highestEpoch() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.id.epoch
}

// follow decides about a coordinator of a store. One of another store than is known is followed as a new gateway: at once if
// there is no session, else only when the known one stays away.
func (g *Gateway) follow(store string) error {
	known, sessions, away := g.ofStore()
	switch {
	case known == "" || store == known:
		return nil
	case sessions > 0 && away < otherStoreAfter:
		return errOtherStore
	}
	closed := g.becomeAnother(errOtherStore)
	if sessions > 0 {
		g.Log.Error("coordinator has another store (DATA_DIR or DATABASE_URL) than before, and none with the known one was found; it is followed, and the streams of all sockets have ended",
			"known", known, "found", store, "after", otherStoreAfter, "sockets_closed", closed)
	}
	return errAnew
}

func (g *Gateway) ofStore() (known string, sessions int, away time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.id.store, len(g.id.sessions), time.Since(g.knownStore)
}

// begin makes the link the gateway's.
func (g *Gateway) begin(l *activeLink, u *url.URL, w link.Welcome) (resumed bool, sessions int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopping || l.closing {
		return false, 0, net.ErrClosed
	}
	resumed = g.id.store == w.Store && g.id.term == w.Term
	frames, err := g.id.welcome(w, time.Now())
	if err != nil {
		g.id.forgetTerm()
		return false, 0, err
	}
	l.unsure.Store(false)
	g.link, g.target, g.heard = l, u, time.Now()
	g.links++
	close(g.linked)
	g.linked = make(chan struct{})
	g.sendLocked(frames)
	return resumed, len(g.id.sessions), nil
}

func (g *Gateway) unlink(l *activeLink) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.link == l {
		g.unlinkLocked()
	}
}

// troubles says what an operator has to know of links. Why there is none it says when the reason changes, and once a minute.
type troubles struct {
	g      *Gateway
	alone  time.Time         // since when there is no link
	said   map[string]string // what was last said of each URL
	spoken time.Time         // when it was last said that there is no link

	minute time.Time // when counting began
	links  int       // made since then
}

// level is that of a line about a link: those that end again and again are not to fill the log.
func (t *troubles) level(usual slog.Level) slog.Level {
	if t.links > linksSaid {
		return slog.LevelDebug
	}
	return usual
}

func (t *troubles) linked(u *url.URL, w link.Welcome, resumed bool, sessions int) {
	if now := time.Now(); now.Sub(t.minute) >= sayTroubleEvery {
		t.minute, t.links = now, 0
	}
	if t.links++; t.links == linksSaid+1 {
		t.g.Log.Warn("links end again and again; for a minute more of them are logged at debug level only", "url", u.String(), "links", t.links)
	}
	t.g.Log.Log(context.Background(), t.level(slog.LevelInfo), "linked to the coordinator", "url", u.String(), "store", w.Store, "term", w.Term, "same_term", resumed, "sessions", sessions,
		"without_link", time.Since(t.alone), "coordinator_version", w.Version)
	clear(t.said)
}

func (t *troubles) lost(u *url.URL, err error) {
	t.alone = time.Now()
	t.g.Log.Log(context.Background(), t.level(slog.LevelWarn), "link to the coordinator has ended; sockets and live streams stay", "url", u.String(), "reason", wordsOf(err))
}

// nobodyLeads is said of coordinators that all stand by: one of them is about to take over.
func (t *troubles) nobodyLeads(standing int) {
	t.once("", "all coordinators stand by", func() {
		t.g.Log.Warn("no coordinator leads; sockets and live streams stay, and no new publisher is let in", "standing_by", standing, "without_link", time.Since(t.alone))
	})
}

func (t *troubles) failed(u *url.URL, err error) {
	reason := wordsOf(err)
	t.once(u.String(), reason, func() {
		level := slog.LevelWarn
		if errors.Is(err, errNoProof) || errors.Is(err, errOtherStore) {
			level = slog.LevelError
		}
		t.g.Log.Log(context.Background(), level, "no link to the coordinator; sockets and live streams stay, and no new publisher is let in", "url", u.String(), "reason", reason, "without_link", time.Since(t.alone))
	})
}

// once says something of a URL when the reason changes, and once a minute.
func (t *troubles) once(of, reason string, say func()) {
	now := time.Now()
	if now.Sub(t.spoken) >= sayTroubleEvery {
		clear(t.said)
		t.spoken = now
	}
	if t.said[of] != reason {
		t.said[of] = reason
		say()
	}
}

// wordsOf leaves out from which port of this machine was dialled: it is another one each time, and of no interest.
func wordsOf(err error) string {
	var op *net.OpError
	if !errors.As(err, &op) {
		return err.Error()
	}
	short := *op
	short.Source = nil
	return strings.Replace(err.Error(), op.Error(), short.Error(), 1)
}

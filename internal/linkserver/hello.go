package linkserver

// How a link begins: HELLO is judged, and answered with WELCOME or REFUSE.

import (
	"errors"
	"log/slog"
	"time"

	"coordinator/internal/link"
	"coordinator/internal/wire"
)

const (
	maxID      = 64
	maxVersion = 64

	// A nonce is too short to be what is signed in a JSON Web Token, because its proof is an HMAC with the same key: of
	// {"alg":"HS256"} and {"sub":"gateway"} that has 44 bytes.
	minNonce, maxNonce = 8, 32

	maxNumber = 1<<53 - 1 // that JSON carries
)

// Why a gateway is refused, in words for both logs.
var (
	errIsGone     = errors.New("gateway is gone: it has to come back as a new one")
	errTooMany    = errors.New("too many gateways")
	errOtherStore = errors.New("coordinator has another store: does COORDINATOR_URL lead to the right cluster?")

	errHigherEpoch = errors.New("another coordinator leads, or has led, in a later epoch")

	errBadID         = errors.New("HELLO has no valid identity of a gateway")
	errBadNonce      = errors.New("HELLO has no nonce of 8 to 32 bytes")
	errBadNumbers    = errors.New("HELLO names a number that can't have been given")
	errProtocol      = errors.New("no protocol that both sides speak: is one of them much older?")
	errNoControl     = errors.New("CONTROL_SECRET is set at the coordinator and not at the gateway")
	errNoControlHere = errors.New("CONTROL_SECRET is set at the gateway and not at the coordinator")
)

// greet reads HELLO and hands the link over to its gateway.
func (s *Server) greet(c *connection) {
	if !s.greets(c) {
		c.end(errStopping)
		return
	}
	defer s.hasGreeted(c)
	if err := c.readHello(); err != nil {
		c.end(err)
		s.sayRefused(c.remote, err.Error())
		return
	}
	if err := s.judge(c); err != nil {
		s.refuse(c, err)
		return
	}
	h := &c.hello
	g, err := s.gateway(h.Gateway, h.Store == "")
	if err != nil {
		s.refuse(c, err)
		return
	}
	select {
	case g.arrivals <- c:
	case <-g.over:
		s.refuse(c, errIsGone)
	case <-s.closing:
		c.end(errStopping)
	}
}

// judge tells what is wrong with a HELLO, whoever its gateway is.
func (s *Server) judge(c *connection) error {
	h := &c.hello
	h.Version = h.Version[:min(len(h.Version), maxVersion)]
	switch {
	case !wire.IsToken(h.Gateway, maxID):
		h.Gateway = "" // not for the log
		return errBadID
	case len(h.Nonce) < minNonce || len(h.Nonce) > maxNonce:
		return errBadNonce
	case h.Oldest > link.Protocol || h.Newest < link.Oldest || h.Oldest > h.Newest:
		return errProtocol
	case h.Numbers > maxNumber:
		return errBadNumbers
	case s.ControlSecret != "" && len(h.ControlMAC) == 0:
		return errNoControl
	case s.ControlSecret == "" && len(h.ControlMAC) > 0:
		return errNoControlHere
	case h.Store != "" && h.Store != s.Store:
		return errOtherStore
	case s.heard(h.Epoch):
		return errHigherEpoch
	}
	c.spoken = min(h.Newest, link.Protocol)
	return nil
}

// refuse answers HELLO with REFUSE and ends the connection. It waits until that has arrived, for a short time.
func (s *Server) refuse(c *connection, reason error) {
	refuse := link.Refuse{Reason: reason.Error(), Gone: reason == errIsGone}
	level := slog.LevelWarn
	if reason == errOtherStore {
		level, refuse.Store = slog.LevelError, s.Store
	}
	if len(c.hello.Nonce) <= maxNonce {
		refuse.Proof = link.MAC(s.Secret, c.hello.Nonce)
	}
	if reason != errStopping {
		s.Refusals.Say(level, c.remote, refused, reason.Error(), slog.String("gateway", c.hello.Gateway), slog.String("version", c.hello.Version))
	}
	if c.writeMessage(link.With(link.KindRefuse, 0, &refuse).Append(nil), goodbyeLimit) == nil {
		c.writeClose()
		timer := time.AfterFunc(goodbyeLimit, func() { c.end(reason) })
		defer timer.Stop()
		for c.discard() == nil {
		}
	}
	c.end(reason)
}

// discard reads a message that nobody looks at, before there is a reader.
func (c *connection) discard() error {
	c.ws.SetReadLimit(maxHello)
	_, _, err := c.ws.NextReader()
	return err
}

// refuseLater is for a connection whose reader runs: what comes from it is dropped.
func (s *Server) refuseLater(c *connection, reason error) {
	s.running.Go(func() {
		refuse := link.Refuse{Reason: reason.Error(), Gone: true, Proof: link.MAC(s.Secret, c.hello.Nonce)}
		if c.writeMessage(link.With(link.KindRefuse, 0, &refuse).Append(nil), goodbyeLimit) == nil {
			c.writeClose()
		}
		c.drain()
		c.end(reason)
	})
}

// welcome is the answer to a gateway that is linked.
func (s *Server) welcome(c *connection, received uint64) []byte {
	return link.With(link.KindWelcome, 0, &link.Welcome{
		Store: s.Store, Term: s.Term, Received: received, Epoch: s.Epoch, Proof: link.MAC(s.Secret, c.hello.Nonce),
		ControlSame: s.sameControl(c), Protocol: c.spoken, Version: s.Version,
	}).Append(nil)
}

// sameControl tells whether both sides let the same peers in.
func (s *Server) sameControl(c *connection) bool {
	return link.Proves(c.hello.ControlMAC, s.ControlSecret, c.hello.Nonce)
}

package main

// What the coordinator tells of itself: its state in one look, what the history remembers of a moment, and the words
// for how publish requests end. Part of the use cases.

import (
	"context"
	"errors"
	"time"

	"coordinator/internal/history"
)

// notReady returns the reasons why no new stream would be taken, whatever the application says; none if one would.
func (c *coordinator) notReady() (reasons []string) {
	if c.stopping.Load() {
		reasons = append(reasons, errStopping.Error())
	}
	if !c.isUp() {
		reasons = append(reasons, errRestoring.Error())
	}
	if !c.mandate.Valid() {
		reasons = append(reasons, errNotSure.Error())
	}
	if c.events.Err() != nil {
		reasons = append(reasons, errNotKept.Error())
	}
	return reasons
}

func (c *coordinator) state() clusterState {
	s := clusterState{totals: c.registry.totals(time.Now()), notReady: c.notReady(), outboxDamaged: c.events.Damaged()}
	s.eventsPending, s.oldestEvent = c.events.Pending()
	s.gathering = !c.isUp()
	for _, g := range c.links() {
		if g.Linked {
			s.gateways.linked++
		} else {
			s.gateways.absent++
		}
		s.gateways.unacknowledged = max(s.gateways.unacknowledged, g.Unacknowledged)
	}
	return s
}

// reading is what the history remembers of this moment.
func (c *coordinator) reading() history.Reading {
	s := c.state()
	return history.Reading{
		Load:          s.slots.Load,
		Capacity:      s.slots.Capacity,
		EventsPending: s.eventsPending,
		Publishes:     c.metrics.publishes["accepted"].Load(),
		Denials:       c.metrics.publishes.sumWithout("accepted"),
		Verified:      c.metrics.verified.Load(),
		KeysRefused:   c.metrics.keysRefused.Load(),
	}
}

// publishResult is the label for the reason of a denial.
func publishResult(reason error) string {
	for _, r := range []struct {
		reason error
		label  string
	}{
		{errKeyDenied, "denied_key"},
		{errApplicationError, "application_error"},
		{errNoAnswer, "no_answer"},
		{errChannelBusy, "busy"},
		{errNoEncoder, "no_encoder"},
		{errWaitedInVain, "no_encoder"},
		{errBadID, "malformed"},
		{errDraining, "draining"},
		{errStopping, "stopping"},
		{errNotKept, "events_not_kept"},
		{errNotSure, "not_leading"},
		{errTooMany, "too_many"},
		{errPeerGone, "peer_gone"},
		{context.Canceled, "peer_gone"}, // of the connection's context
	} {
		if errors.Is(reason, r.reason) {
			return r.label
		}
	}
	return "other"
}

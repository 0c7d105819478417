package main

// Undelivered events, for the operator: what is stuck, since when, why, and what to do about it.

import (
	"errors"
	"net/http"
	"time"

	"coordinator/internal/httpjson"
	"coordinator/internal/outbox"
	"coordinator/internal/paging"
)

// eventRow is an event that the application has not taken.
type eventRow struct {
	ID         string    `json:"id"` // x-event-id
	Channel    string    `json:"channel"`
	StreamID   string    `json:"streamId"` // "": of a publisher that was not accepted
	Type       string    `json:"type"`
	StreamType string    `json:"streamType"` // this and Resolution: of stream-available, else ""
	Resolution string    `json:"resolution"`
	Since      time.Time `json:"since"` // when it happened
	State      string    `json:"state"`
	Tries      int       `json:"tries"`      // failed ones since the start
	LastAnswer string    `json:"lastAnswer"` // how the last of them ended; "": there was none
	NextTry    string    `json:"nextTry"`    // of one that waits; else ""
}

func rowOfEvent(u outbox.Undelivered) eventRow {
	row := eventRow{
		ID:         u.ID(),
		Channel:    u.Channel,
		StreamID:   u.StreamID,
		Type:       u.Event.Type.String(),
		StreamType: u.StreamType,
		Resolution: u.Resolution,
		Since:      u.At.UTC(),
		Tries:      u.Tries,
		LastAnswer: u.LastAnswer,
	}
	if u.Event.Type == outbox.PublishRefused {
		row.StreamID = ""
	}
	switch u.Standing {
	case outbox.Queued:
		row.State = "queued"
	case outbox.Due:
		row.State = "due"
	case outbox.Sending:
		row.State = "sending"
	case outbox.Waiting:
		row.State = "waiting"
		row.NextTry = u.NextTry.UTC().Format(eventTimeStyle)
	}
	return row
}

// eventsReport is the answer to GET /commands/events.
type eventsReport struct {
	Events []eventRow `json:"events"`
	After  string     `json:"after"`
}

// events answers with a page, in the order in which the store has them: by publication, oldest first.
func (a *commands) events(w http.ResponseWriter, r *http.Request) {
	list := paging.Stored{Name: "events"}
	q, err := list.Parse(r.URL.RawQuery)
	if err != nil {
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedQuery, err.Error())
		return
	}
	from := outbox.Place{Queue: q.From.ID, Position: uint32(q.From.Number)}
	page, next, more, err := a.coordinator.listEvents(r.Context(), from, q.Values.Get("channel"), q.Limit)
	if err != nil {
		refuseEvents(w, err)
		return
	}
	report := eventsReport{Events: make([]eventRow, 0, len(page))}
	for _, u := range page {
		report.Events = append(report.Events, rowOfEvent(u))
	}
	if more {
		report.After = list.After(paging.Key{ID: next.Queue, Number: int64(next.Position)})
	}
	httpjson.Write(w, http.StatusOK, report)
}

// retryEvents answers 200 also when there is nothing to try.
func (a *commands) retryEvents(w http.ResponseWriter, r *http.Request) {
	channel, ok := requiredHeader(w, r, "x-streaming-channel")
	if !ok {
		return
	}
	if channel == "*" {
		channel = ""
	}
	answerEvents(w, a.coordinator.retryEvents(r.Context(), channel))
}

// discardEvent answers 200 once the event is given up for good.
func (a *commands) discardEvent(w http.ResponseWriter, r *http.Request) {
	id, ok := requiredHeader(w, r, "x-event-id")
	if !ok {
		return
	}
	answerEvents(w, a.coordinator.discardEvent(r.Context(), id))
}

func answerEvents(w http.ResponseWriter, err error) {
	if err != nil {
		refuseEvents(w, err)
		return
	}
	httpjson.Write(w, http.StatusOK, struct{}{})
}

func refuseEvents(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, errBadChannel):
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedChannel, err.Error())
	case errors.Is(err, outbox.ErrUnknownEvent):
		httpjson.Error(w, http.StatusNotFound, httpjson.UnknownEvent, err.Error())
	case errors.Is(err, outbox.ErrNotFirst):
		httpjson.Error(w, http.StatusConflict, httpjson.EventNotFirst, err.Error())
	case errors.Is(err, outbox.ErrInFlight):
		httpjson.Error(w, http.StatusConflict, httpjson.EventInFlight, err.Error())
	default:
		unavailable(w, httpjson.EventsUnavailable, err)
	}
}

package main

// Events towards the application: what their requests say, and the outbox that sends them.

import (
	"context"
	"log/slog"
	"net/http"

	"coordinator/internal/outbox"
)

// callbacks is the outbox with its way to the application. Without EVENT_CALLBACK_URL the outbox is nil, which drops
// events.
type callbacks struct {
	*outbox.Outbox
	client *appClient
}

// newCallbacks opens the outbox if there is an application to tell. Nothing is sent before Start.
func newCallbacks(cfg *Config, observe outbox.Observe, log *slog.Logger) (*callbacks, error) {
	if cfg.EventCallbackURL == "" {
		return &callbacks{}, nil
	}
	client := newAppClient(cfg.EventCallbackURL, cfg.EventCallbackAuth, outbox.MaxInFlight)
	send := func(ctx context.Context, ev outbox.Event) (int, http.Header, error) {
		return client.post(ctx, eventHeader(ev))
	}
	events, err := outbox.Open(cfg.DataDir, send, observe, log)
	if err != nil {
		client.close()
		return nil, err
	}
	return &callbacks{events, client}, nil
}

// Finish is Outbox.Finish, and leaves no connection behind.
func (c *callbacks) Finish(ctx context.Context) error {
	err := c.Outbox.Finish(ctx)
	if c.client != nil {
		c.client.close()
	}
	return err
}

// sendResult is how a try ended, for the metrics.
func sendResult(status int, err error) string {
	switch {
	case err != nil:
		return "unanswered"
	case status == http.StatusOK:
		return "delivered"
	}
	return "refused"
}

const eventTimeStyle = "2006-01-02T15:04:05.000Z07:00"

// eventHeader is what the application reads. The event ID is the same whenever the event is sent.
func eventHeader(ev outbox.Event) http.Header {
	const most = 12
	header, values := make(http.Header, most), make([]string, 0, most) // one array for the values of all
	set := func(canonicalName, value string) {
		values = append(values, headerValue(value))
		header[canonicalName] = values[len(values)-1 : len(values) : len(values)]
	}
	set("X-Streaming-Channel", ev.Channel)
	set("X-Streaming-Id", ev.StreamID)
	set("X-Event-Id", ev.ID())
	set("X-Event-Time", ev.At.UTC().Format(eventTimeStyle))
	if ev.Previous != "" {
		set("X-Previous-Streaming-Id", ev.Previous)
	}
	if ev.Closed {
		set("X-Event-Type", "stream-closed")
		return header
	}
	set("X-Event-Type", "stream-available")
	set("X-Stream-Type", ev.StreamType)
	set("X-Resolution", ev.Resolution)
	set("X-Index-File", ev.IndexFile)
	if ev.StartTime != "" {
		set("X-Start-Time", ev.StartTime)
	}
	return header
}

package main

// Events towards the application: what their requests say, and the outbox that sends them.

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"coordinator/internal/appclient"
	"coordinator/internal/outbox"
)

// callbacks is the outbox with its way to the application. Without EVENT_CALLBACK_URL it drops events; the outbox is nil then,
// unless it has to keep what belongs to gateways.
type callbacks struct {
	*outbox.Outbox
	client  *appclient.Client // nil: there is no application to tell
	cluster outbox.Cluster    // as the outbox was opened; with gateways only
}

// newCallbacks opens the outbox if there is an application to tell, or if there may be gateways. Nothing is sent before Start.
func newCallbacks(cfg *Config, observe outbox.Observe, log *slog.Logger) (*callbacks, error) {
	c := &callbacks{}
	send := c.sender(cfg, alwaysLeads{})
	var err error
	switch {
	case cfg.GatewaySecret != "":
		c.Outbox, c.cluster, err = outbox.OpenCluster(cfg.DataDir, send, observe, log)
	case c.client != nil:
		c.Outbox, err = outbox.Open(cfg.DataDir, send, observe, log)
	}
	return c, c.closeAfter(err)
}

// newSharedCallbacks takes up the events in a store that it shares with other coordinators, and has as long as m says.
func newSharedCallbacks(cfg *Config, store outbox.Store, m mandate, observe outbox.Observe, log *slog.Logger) (*callbacks, error) {
	c := &callbacks{}
	send := c.sender(cfg, m)
	var err error
	c.Outbox, c.cluster, err = outbox.OpenShared(store, send, observe, log)
	return c, c.closeAfter(err)
}

// sender makes the client, and returns what sends events with it; nil: there is no application to tell. Another leader may send the
// same events: nothing is sent in doubt.
func (c *callbacks) sender(cfg *Config, m mandate) outbox.Send {
	if cfg.EventCallbackURL == "" {
		return nil
	}
	c.client = appclient.New(cfg.EventCallbackURL, cfg.EventCallbackAuth, outbox.MaxInFlight, userAgent())
	return func(ctx context.Context, ev outbox.Event) (int, http.Header, error) {
		if isUnwanted(cfg, &ev) {
			return http.StatusOK, nil, nil
		}
		if err := m.AwaitValid(ctx); err != nil {
			return 0, nil, err
		}
		return c.client.Post(ctx, eventHeader(ev))
	}
}

// isUnwanted tells whether an event is dropped unsent: one that still waits although EVENT_CALLBACK_EXTRA was switched off. The application
// may refuse what it does not know, and that would hold up all events behind it.
func isUnwanted(cfg *Config, ev *outbox.Event) bool {
	return ev.Type.IsExtra() && !cfg.EventCallbackExtra
}

// closeAfter leaves no client behind when the outbox could not be opened.
func (c *callbacks) closeAfter(err error) error {
	if err != nil && c.client != nil {
		c.client.Close()
	}
	return err
}

// keepsEvents tells whether there is an application to tell.
func (c *callbacks) keepsEvents() bool { return c.client != nil }

// Err is that of Outbox if there is an application to tell; else a stream can begin whatever becomes of the disk.
func (c *callbacks) Err() error {
	if !c.keepsEvents() {
		return nil
	}
	return c.Outbox.Err()
}

// AppendPart and End are those of Outbox if there is an application to tell.

func (c *callbacks) AppendPart(ev outbox.Event) {
	if c.keepsEvents() {
		c.Outbox.AppendPart(ev)
	}
}

func (c *callbacks) End(m outbox.Mark) {
	if c.keepsEvents() {
		c.Outbox.End(m)
	}
}

// Finish is Outbox.Finish, and leaves no connection behind.
func (c *callbacks) Finish(ctx context.Context) error {
	err := c.Outbox.Finish(ctx)
	if c.client != nil {
		c.client.Close()
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
	const most = 14
	header, values := make(http.Header, most), make([]string, 0, most) // one array for the values of all
	set := func(canonicalName, value string) {
		values = append(values, appclient.HeaderValue(value))
		header[canonicalName] = values[len(values)-1 : len(values) : len(values)]
	}
	set("X-Streaming-Channel", ev.Channel)
	if ev.Type != outbox.PublishRefused {
		set("X-Streaming-Id", ev.StreamID)
	}
	set("X-Event-Id", ev.ID())
	set("X-Event-Time", ev.At.UTC().Format(eventTimeStyle))
	if ev.Previous != "" {
		set("X-Previous-Streaming-Id", ev.Previous)
	}
	set("X-Event-Type", ev.Type.String())
	if ev.Passthrough != "" {
		set("X-Passthrough", ev.Passthrough)
	}
	switch {
	case ev.Type == outbox.StreamAvailable:
	case ev.Type != outbox.StreamClosed && ev.Reason != "":
		set("X-Reason", ev.Reason)
		return header
	case ev.Reason != "": // an event of an earlier version has none
		set("X-Close-Reason", ev.Reason)
		if ev.Duration >= 0 {
			set("X-Duration", strconv.FormatInt(int64(ev.Duration/time.Second), 10))
		}
		return header
	default:
		return header
	}
	set("X-Stream-Type", ev.StreamType)
	set("X-Resolution", ev.Resolution)
	set("X-Index-File", ev.IndexFile)
	if ev.StartTime != "" {
		set("X-Start-Time", ev.StartTime)
	}
	return header
}

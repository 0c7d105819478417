package e2e

// Undelivered events as an operator sees them: listed, tried now, given up.

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// awaitEvents asks for a page of undelivered events until it is as wanted.
func awaitEvents(d *clustertest.Daemon, query string, wanted func(clustertest.EventPage) bool) clustertest.EventPage {
	d.T.Helper()
	deadline := time.After(clustertest.Patience)
	for {
		page := clustertest.Get[clustertest.EventPage](d, "/commands/events"+query)
		if wanted(page) {
			return page
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			d.T.Fatalf("undelivered events: %+v", page)
		}
	}
}

// refuseEvents has an application refuse the events of a channel, with a long Retry-After, until accept is called.
func refuseEvents(app *clustertest.Application, channel string) (accept func()) {
	var accepts atomic.Bool
	app.AnswerEvents(func(w http.ResponseWriter, r *http.Request) {
		if !accepts.Load() && r.Header.Get("x-streaming-channel") == channel {
			w.Header().Set("Retry-After", "200")
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	})
	return func() { accepts.Store(true) }
}

// stickEvents makes three events of a stream, the last one a stream-closed, and waits until the application has refused the first one.
func stickEvents(d *clustertest.Daemon, server, encoder *clustertest.Peer, channel string) (id string) {
	d.T.Helper()
	id = clustertest.Publish(server, encoder, channel)
	encoder.Available(channel, id, "HLS-LIVE", "1280x720-30", "a.m3u8")
	encoder.Available(channel, id, "HLS-LIVE", "640x360-30", "b.m3u8")
	clustertest.EndPublish(server, encoder, channel, id)
	encoder.Closed(channel, id)
	awaitEvents(d, "?channel="+channel, func(p clustertest.EventPage) bool {
		return len(p.Events) == 3 && p.Events[0].State == "waiting"
	})
	return id
}

func TestOperatorSeesWhatIsStuckAndGivesItUp(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	accept := refuseEvents(app, "stuck")
	d := startDaemon(t, app.Variables()...)
	server, _ := d.Join("rtmp")
	encoder, _ := d.Register(5)
	began := time.Now()
	id := stickEvents(d, server, encoder, "stuck")
	well := clustertest.Publish(server, encoder, "well")
	encoder.Available("well", well, "HLS-LIVE", "1x1", "w.m3u8")
	app.AwaitEvents(1)

	var rows []clustertest.EventRow
	for after := ""; ; {
		page := clustertest.Get[clustertest.EventPage](d, "/commands/events?limit=1&after="+url.QueryEscape(after))
		rows = append(rows, page.Events...)
		if after = page.After; after == "" {
			break
		}
	}
	var got []string
	for _, row := range rows {
		got = append(got, fmt.Sprint(row.Channel, " ", strings.Replace(row.ID, id, "ID", 1), " ", row.Type, " ", row.StreamType, " ", row.Resolution, " ", row.State, " ", row.Tries, " ", row.LastAnswer))
		if row.StreamID != id || row.Since.Before(began.Add(-time.Second)) || row.Since.After(time.Now()) {
			t.Errorf("%+v", row)
		}
	}
	want := []string{
		"stuck ID-1 stream-available HLS-LIVE 1280x720-30 waiting 1 status 422",
		"stuck ID-2 stream-available HLS-LIVE 640x360-30 queued 0 ",
		"stuck ID-closed stream-closed   queued 0 ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, want %q", got, want)
	}
	if next, err := time.Parse(time.RFC3339, rows[0].NextTry); err != nil || time.Until(next) < time.Minute || time.Until(next) > 5*time.Minute {
		t.Errorf("next try at %q", rows[0].NextTry)
	}

	// Now.
	d.MustCall("/commands/events/retry", "x-streaming-channel", "well")
	d.MustCall("/commands/events/retry", "x-streaming-channel", "stuck")
	awaitEvents(d, "", func(p clustertest.EventPage) bool { return p.Events[0].Tries == 2 && p.Events[0].State == "waiting" })
	d.MustCall("/commands/events/retry", "x-streaming-channel", "*")
	awaitEvents(d, "", func(p clustertest.EventPage) bool { return p.Events[0].Tries == 3 && p.Events[0].State == "waiting" })

	// Given up, one after the other.
	discard := func(event string, want int) {
		t.Helper()
		if status, body := d.Call("POST", "/commands/events/discard", "x-event-id", event); status != want {
			t.Errorf("discard of %s: %d %s, want %d", event, status, body, want)
		}
	}
	discard(id+"-closed", 409)
	discard(id+"-9", 404)
	discard(well+"-1", 404)
	discard(id+"-1", 200)
	discard(id+"-1", 404)
	d.Logs.Await(t, "an event was discarded", "event="+id+"-1", "channel=stuck", "answer=\"status 422\"", "tries=3")
	if _, body := d.Call("GET", "/commands/timeline?channel=stuck&kind=discarded"); !strings.Contains(body, "was discarded on request") {
		t.Errorf("timeline: %s", body)
	}
	accept()
	d.MustCall("/commands/events/retry", "x-streaming-channel", "*")
	events := app.AwaitEvents(3)
	for _, h := range events {
		if h.Get("x-event-id") == id+"-1" {
			t.Error("a discarded event was delivered")
		}
	}
	awaitEvents(d, "", func(p clustertest.EventPage) bool { return len(p.Events) == 0 })
	if !gatewayBetween(t) { // which has metrics of its own
		d.AwaitMetrics(map[string]float64{"coordinator_events_discarded_total": 1, "coordinator_events_pending": 0})
	}
}

func TestDiscardOutlivesAKill(t *testing.T) {
	t.Parallel()
	app := clustertest.NewApplication(t)
	accept := refuseEvents(app, "stuck")
	variables := app.Variables("DATA_DIR=" + t.TempDir())
	p := clustertest.Serve(t, coordinatorBinary, variables...)
	server, _ := p.Join("rtmp")
	encoder, _ := p.Register(5)
	id := stickEvents(p.Daemon, server, encoder, "stuck")
	p.MustCall("/commands/events/discard", "x-event-id", id+"-1")
	awaitEvents(p.Daemon, "", func(page clustertest.EventPage) bool {
		return len(page.Events) == 2 && page.Events[0].State == "waiting"
	})
	p.MustCall("/commands/events/discard", "x-event-id", id+"-2")
	p.Signal(syscall.SIGKILL)
	p.AwaitExit(-1)
	again := clustertest.Serve(t, coordinatorBinary, variables...)
	page := awaitEvents(again.Daemon, "", func(page clustertest.EventPage) bool {
		return len(page.Events) == 1 && page.Events[0].State == "waiting"
	})
	if page.Events[0].ID != id+"-closed" {
		t.Errorf("after the kill: %+v", page)
	}
	accept()
	again.MustCall("/commands/events/retry", "x-streaming-channel", "stuck")
	app.AwaitEvents(1)
	awaitEvents(again.Daemon, "", func(page clustertest.EventPage) bool { return len(page.Events) == 0 })
	if status, _ := again.Call("POST", "/commands/events/discard", "x-event-id", id+"-closed"); status != 404 {
		t.Errorf("of an event that was taken: %d", status)
	}
}

// discardStory reads what the page asks before it discards an event: what the application will not know then.
func discardStory(t *testing.T, browser context.Context) {
	cluster := newClusterDouble(t)
	words := []struct{ id, event, streamID, want string }{
		{"A-1", "stream-available", "A", "The application will never hear of it: HLS-LIVE 640x360 of stream A."},
		{"A-closed", "stream-closed", "A", "The application will never hear that stream A has ended: it will go on taking the stream for live."},
		{"A-interrupted", "stream-interrupted", "A", "The application will never hear of this stream-interrupted, of stream A."},
		{"A-accepted", "publish-accepted", "A", "The application will never hear of this publish-accepted, of stream A."},
		{"A-failed", "publish-failed", "A", "The application will never hear that publisher A has failed: it will go on taking the publisher for accepted."},
		{"B-failed", "publish-failed", "", "The application will never hear that a publisher found no room."},
	}
	cluster.change(func() {
		cluster.events = nil
		for _, w := range words {
			row := clustertest.EventRow{ID: w.id, Channel: "show", StreamID: w.streamID, Type: w.event, Since: time.Now(), State: "due"}
			if w.event == "stream-available" {
				row.StreamType, row.Resolution = "HLS-LIVE", "640x360"
			}
			cluster.events = append(cluster.events, row)
		}
	})
	tb := openTab(t, browser)
	tb.open(cluster.url + "/dashboard#events")
	tb.awaitRows(len(words))
	for _, w := range words {
		tb.click(`[aria-label="Discard ` + w.id + `"]`)
		tb.awaitText("#confirm-title", "Discard this "+w.event+" of show?")
		if got, want := tb.text("#confirm-text"), w.want+" The events behind it are sent."; got != want {
			t.Errorf("%s: %q, want %q", w.id, got, want)
		}
		tb.press(kb.Escape)
		tb.await(`!document.querySelector('dialog').open`)
	}
	tb.faultless()
}

// undeliveredStory gives up an event by keyboard alone.
func undeliveredStory(t *testing.T, browser context.Context) {
	app := clustertest.NewApplication(t)
	accept := refuseEvents(app, "stuck")
	d := startDaemon(t, app.Variables()...)
	server, _ := d.Join("rtmp")
	encoder, _ := d.Register(5)
	tb := openTab(t, browser)
	tb.open("http://" + d.Addr + "/dashboard")
	tb.awaitText("#connection", "Live")
	tb.click(`nav a[href="#events"]`)
	tb.awaitText(".empty", "The application has taken all events.")
	if value[bool](tb, `document.querySelector('#try-all').checkVisibility()`) {
		t.Error("there is nothing to try")
	}
	id := stickEvents(d, server, encoder, "stuck")
	tb.awaitRows(3)
	tb.awaitText("#to-events", "Events 3")
	tb.awaitText("#shown", "1–3 of 3")
	tb.awaitText("tbody tr:first-child", "stuck", "stream-available", "HLS-LIVE 1280x720-30", "waiting", "1", "status 422", "in 3 min")
	tb.awaitText("tbody tr:last-child", "stream-closed", "queued")
	if n := value[int](tb, `document.querySelectorAll('tbody button').length`); n != 2 {
		t.Errorf("%d buttons: only the first event can be tried or discarded", n)
	}

	tb.click(`[aria-label="Try now ` + id + `-1"]`)
	tb.awaitText("#confirm-title", "Try the events of stuck now?")
	tb.confirm()
	tb.awaitText(`tbody tr:first-child [data-title="Tries"]`, "2")
	tb.click("#try-all")
	tb.awaitText("#confirm-title", "Try all undelivered events now?")
	tb.confirm()
	tb.awaitText(`tbody tr:first-child [data-title="Tries"]`, "3")

	tb.typeInto("#search", "nobody")
	tb.awaitText(".empty", "Nothing matches “nobody”.")
	value[any](tb, `document.querySelector('#search').select()`)
	tb.typeInto("#search", "stuck")
	tb.awaitRows(3)
	tb.awaitText("#shown", "1–3")

	for range 12 { // by keyboard alone, from the search to the button
		if value[bool](tb, `document.activeElement.ariaLabel === 'Discard `+id+`-1'`) {
			break
		}
		tb.press(kb.Tab)
	}
	tb.press(kb.Enter)
	tb.await(`document.querySelector('dialog').open && document.activeElement.id === 'confirm-no'`)
	tb.awaitText("#confirm-title", "Discard this stream-available of stuck?")
	tb.awaitText("#confirm-text", "The application will never hear of it")
	tb.press(kb.Escape)
	tb.await(`!document.querySelector('dialog').open`)
	for _, event := range []string{"-1", "-2"} {
		tb.await(`document.querySelector('[aria-label="Discard ` + id + event + `"]') !== null`)
		tb.click(`[aria-label="Discard ` + id + event + `"]`)
		tb.confirm()
		tb.await(`!document.querySelector('dialog').open`)
	}
	tb.awaitRows(1)
	tb.click(`[aria-label="Discard ` + id + `-closed"]`)
	tb.awaitText("#confirm-title", "Discard this stream-closed of stuck?")
	tb.awaitText("#confirm-text", "will go on taking the stream for live")

	// It is gone meanwhile.
	accept()
	d.MustCall("/commands/events/retry", "x-streaming-channel", "*")
	app.AwaitEvents(1)
	tb.click("#confirm-yes")
	tb.awaitText("#confirm-error", "Not done: no undelivered event has this ID")
	tb.press(kb.Escape)
	act(tb, chromedp.Navigate("http://"+d.Addr+"/dashboard#events"))
	tb.awaitText(".empty", "The application has taken all events.")
	tb.awaitText("#to-events", "Events 0")
	tb.faultless()
}

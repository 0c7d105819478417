package e2e

// The dashboard's stories in a real browser, told with the running daemon and its peers.

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"syscall"
	"testing"

	"coordinator/internal/clustertest"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

func TestDashboardInBrowser(t *testing.T) {
	t.Parallel()
	browser := startBrowser(t)
	for _, story := range []struct {
		name string
		tell func(*testing.T, context.Context)
	}{
		{"Bearer token by the form", bearerStory},
		{"Basic by the browser, and a foreign page that can't use it", basicStory},
		{"streams come and go before the eyes, and one is closed", closeStory},
		{"why a publisher was denied, and what became of a stream", timelineStory},
		{"an encoder is drained, its streams are moved", drainStory},
		{"the coordinator is lost and comes back", lossStory},
		{"events are stuck, are tried and given up", undeliveredStory},
		{"what is lost with an event is said before it is discarded", discardStory},
		{"gateways hold sessions, and one is lost", gatewaysStory},
		{"a coordinator stands by, and takes over", standbyStory},
		{"a hundred thousand streams", manyStreamsStory},
		{"hostile names stay text", hostileNamesStory},
		{"a page nobody looks at asks for nothing", hiddenStory},
		{"an order that is refused says why", refusedOrderStory},
		{"other credentials are asked for", otherCredentialsStory},
		{"without a limit, without anything", emptyClusterStory},
		{"accessible in all sizes and colours", accessibleStory},
		{"screenshots", screenshotsStory},
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(t, browser) })
	}
}

func bearerStory(t *testing.T, browser context.Context) {
	d := startDaemon(t, "COMMANDS_API_AUTH=Bearer", "COMMANDS_API_AUTH_TOKEN=tökén-1")
	tb := openTab(t, browser)
	tb.open("http://" + d.Addr + "/dashboard")
	tb.await(`document.activeElement.id === 'token' && document.querySelector('#cluster').hidden`)
	if got := tb.text("#sign-in-error"); got != "" {
		t.Errorf("blamed before anything was tried: %q", got)
	}
	tb.typeInto("#token", "wrong"+kb.Enter)
	tb.awaitText("#sign-in-error", "did not accept this token")
	tb.await(`sessionStorage.length === 0`)
	tb.typeInto("#token", "tökén-1"+kb.Enter)
	tb.awaitText("#connection", "Live")
	tb.await(`!document.querySelector('#cluster').hidden && document.querySelector('#sign-in').hidden`)

	act(tb, chromedp.Reload())
	tb.awaitText("#connection", "Live")
	if kept := value[bool](tb, `document.cookie === '' && localStorage.length === 0 && sessionStorage.length === 1`); !kept {
		t.Error("the token must be in sessionStorage and nowhere else")
	}
	tb.click("#sign-out")
	tb.await(`!document.querySelector('#sign-in').hidden && document.querySelector('#cluster').hidden && sessionStorage.length === 0`)
	tb.faultless()
}

func basicStory(t *testing.T, browser context.Context) {
	d := startDaemon(t, "COMMANDS_API_AUTH=Basic", "COMMANDS_API_AUTH_USER=op", "COMMANDS_API_AUTH_PASSWORD=pässword")
	server, encoder := d.DialPeer("rtmp"), d.DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "5")
	d.Logs.Await(t, "encoder registered")
	clustertest.Publish(server, encoder, "chan")

	tb := openTab(t, browser)
	stop := tb.answerDialogue(fetch.AuthChallengeResponse{
		Response: fetch.AuthChallengeResponseResponseProvideCredentials, Username: "op", Password: "pässword",
	})
	tb.open("http://" + d.Addr + "/dashboard")
	stop()
	tb.awaitRows(1)
	tb.awaitText("tbody", "chan")

	// A foreign page tries with what it has: no-cors, CORS, and a form. The form's answer shows that the browser did
	// send the credentials along.
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		target := "http://" + d.Addr + "/commands/close"
		w.Write([]byte(`<!doctype html><form method=post action="` + target + `"><input name="x-streaming-channel" value="chan"><input name="x-streaming-id" value="*"></form>
<script>
const headers = { 'x-streaming-channel': 'chan', 'x-streaming-id': '*' };
const tries = ['no-cors', 'cors'].map((mode) => fetch('` + target + `', { method: 'POST', mode, headers, credentials: 'include' }));
Promise.allSettled(tries).then((results) => { document.title = 'tried ' + results[1].status; });
</script>`))
	}))
	t.Cleanup(foreign.Close)
	_, port, _ := net.SplitHostPort(foreign.Listener.Addr().String())
	act(tb, chromedp.Navigate("http://localhost:"+port+"/"))
	tb.await(`document.title === 'tried rejected'`)
	value[any](tb, `document.forms[0].submit()`)
	tb.awaitText("body", "header x-streaming-channel must be given once")
	server.Quiet()
}

// answerDialogue answers when the browser asks for credentials, as its user would, until stop is called.
func (tb *tab) answerDialogue(answer fetch.AuthChallengeResponse) (stop func()) {
	tb.t.Helper()
	ctx, cancel := context.WithCancel(tb.ctx)
	asked := make(chan any, 256)
	if err := chromedp.Listen(ctx, func(ev any) {
		switch ev.(type) {
		case *fetch.EventAuthRequired, *fetch.EventRequestPaused:
			asked <- ev
		}
	}); err != nil {
		tb.t.Fatal(err)
	}
	yes := true
	command(tb, fetch.Enable, fetch.EnableParams{HandleAuthRequests: &yes})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case ev := <-asked: // errors are of requests that the page has given up
				switch ev := ev.(type) {
				case *fetch.EventAuthRequired:
					_, _ = chromedp.Call(ctx, fetch.ContinueWithAuth, fetch.ContinueWithAuthParams{RequestID: ev.RequestID, AuthChallengeResponse: &answer})
				case *fetch.EventRequestPaused:
					_, _ = chromedp.Call(ctx, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: ev.RequestID})
				}
			}
		}
	}()
	return func() {
		command(tb, fetch.Disable, cdp.Empty{})
		cancel()
		<-done
	}
}

func timelineStory(t *testing.T, browser context.Context) {
	d := startDaemon(t)
	server, encoder := d.DialPeer("rtmp", "x-external-ip", "10.1.2.3"), d.DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "1")
	d.Logs.Await(t, "encoder registered")
	id := clustertest.Publish(server, encoder, "chan")
	server.Request("full", "key")
	server.ExpectDenied("full")

	tb := openTab(t, browser)
	tb.open("http://" + d.Addr + "/dashboard")
	tb.awaitRows(1)
	value[any](tb, `document.querySelector('tbody [data-title="Channel"] a').focus()`)
	tb.press(kb.Enter)
	tb.await(`location.hash === '#timeline?q=chan'`)
	tb.awaitRows(3)
	tb.awaitText("tbody", "was told to start: the only one that could take it")

	// It goes on before the eyes, the newest entry first.
	server.End("chan", id)
	tb.awaitText("tbody tr:first-child", "the streaming server said that the publisher has ended")
	encoder.Closed("chan", id)
	tb.awaitText("tbody tr:first-child", "the encoder closed the stream")
	tb.awaitRows(5)

	// A search among streams leads to a channel that is not live; so does a stream ID.
	tb.click(`nav a[href="#streams"]`)
	tb.awaitText(".empty", "No streams are live.")
	tb.typeInto("#search", "full")
	tb.awaitText("#to-timeline", "Timeline of “full”")
	tb.click("#to-timeline a")
	tb.awaitRows(2)
	tb.awaitText("tbody tr:first-child", "no encoder had a free slot: 1 of 1 slots taken on 1 encoder")
	tb.await(`!document.querySelector('#to-timeline').checkVisibility()`)
	value[any](tb, `document.querySelector('#search').select()`)
	tb.typeInto("#search", id)
	tb.awaitRows(4)

	tb.click(`nav a[href="#denials"]`)
	tb.awaitRows(1)
	tb.awaitText("tbody", "no encoder had a free slot")
	tb.click(`tbody [data-title="Channel"] a`)
	tb.await(`location.hash === '#timeline?q=full'`)
	tb.click(`nav a[href="#timeline"]`)
	tb.awaitText(".empty", "Search for a channel or a stream ID")
	tb.size(phoneWidth, phoneHeight)
	tb.typeInto("#search", "chan")
	tb.awaitRows(5)
	tb.check("timeline on a phone")
	tb.faultless()
}

func closeStory(t *testing.T, browser context.Context) {
	d := startDaemon(t)
	server, encoder := d.DialPeer("rtmp", "x-external-ip", "10.1.2.3"), d.DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "5")
	tb := openTab(t, browser)
	tb.open("http://" + d.Addr + "/dashboard")
	tb.awaitText(".empty", "No streams are live.")
	tb.awaitText("#encoders", "1")
	value[any](tb, `window.sameDocument = true`)

	clustertest.Publish(server, encoder, "other")
	id := clustertest.Publish(server, encoder, "chan")
	tb.awaitRows(2)
	tb.awaitText("#live", "2")
	tb.awaitText("#slots", "2 of 5")
	encoder.Available("chan", id, "HLS-LIVE", "1280x720-30", "live.m3u8")
	encoder.Available("chan", id, "HLS-LIVE", "640x360-30", "live2.m3u8")
	tb.awaitText("tbody", "HLS-LIVE 1280x720-30, 640x360-30")

	// The focus stays on a button while rows around it come and go.
	value[any](tb, `document.querySelector('[aria-label="Close chan"]').focus()`)
	clustertest.Publish(server, encoder, "aaa")
	clustertest.Publish(server, encoder, "bbb")
	tb.awaitRows(4)
	tb.await(`document.activeElement.ariaLabel === 'Close chan'`)

	// From a stream to its encoder and back to what is on it.
	tb.click(`tbody [data-title="Encoder"] a`)
	tb.await(`location.hash.startsWith('#encoders?q=')`)
	tb.awaitRows(1)
	tb.awaitText("tbody", "4 of 5")
	value[any](tb, `document.querySelector('tbody [data-title="Slots used"] a').focus()`)
	tb.press(kb.Enter)
	tb.await(`document.activeElement.id === 'table-frame' && document.activeElement.ariaLabel === 'Streams'`)
	tb.await(`location.hash.startsWith('#streams?q=')`)
	tb.awaitRows(4)
	value[any](tb, `document.querySelector('#search').select()`)
	tb.typeInto("#search", "cha")
	tb.awaitRows(1)
	tb.awaitText("#shown", "1–1 of 1")

	for range 9 { // by keyboard alone: from the search over five columns and two links
		if value[bool](tb, `document.activeElement.ariaLabel === 'Close chan'`) {
			break
		}
		tb.press(kb.Tab)
	}
	tb.press(kb.Enter)
	tb.await(`document.querySelector('dialog').open && document.activeElement.id === 'confirm-no'`)
	tb.awaitText("#confirm-title", "Close chan?")
	tb.press(kb.Escape)
	tb.await(`!document.querySelector('dialog').open && document.activeElement.ariaLabel === 'Close chan'`)
	server.Quiet()

	tb.click(`[aria-label="Close chan"]`)
	tb.confirm()
	server.Expect("STREAM-KILL", "Stream-Channel", "chan", "Stream-ID", id)
	tb.await(`document.querySelector('[aria-label="Closing chan"]')?.disabled`)
	server.Send("PUBLISH-END", "Stream-Channel", "chan", "Stream-ID", id)
	encoder.Expect("ENCODE-STOP", "Stream-Channel", "chan", "Stream-ID", id)
	tb.awaitText("tbody .badge", "closing")
	tb.awaitText("#live-note", "1\u00a0closing")
	encoder.Closed("chan", id)
	tb.awaitText(".empty", "Nothing matches “cha”.")
	server.Quiet() // no other stream was closed
	if !value[bool](tb, `window.sameDocument === true`) {
		t.Error("the page was loaded again")
	}
	tb.faultless()
}

func drainStory(t *testing.T, browser context.Context) {
	d := startDaemon(t)
	server := d.DialPeer("rtmp")
	first, firstID := d.Register(10)
	clustertest.Publish(server, first, "a")
	clustertest.Publish(server, first, "b")
	second, secondID := d.Register(10)
	tb := openTab(t, browser)
	tb.open("http://" + d.Addr + "/dashboard#encoders")
	tb.awaitRows(2)

	row := func(id uint64) string { return "encoder " + strconv.FormatUint(id, 10) }
	tb.click(`[aria-label="Drain ` + row(firstID) + `"]`)
	tb.awaitText("#confirm-text", "keeps the 2 streams it has")
	tb.click("#confirm-check")
	tb.confirm()
	movedA := second.Expect("ENCODE-START")
	movedB := second.Expect("ENCODE-START")
	tb.awaitText("tbody tr:first-child", "moving", "2 streams left")
	tb.awaitText("#encoders-note", "1\u00a0draining")
	second.Available(movedA.Get("Stream-Channel"), movedA.Get("Stream-ID"), "HLS-LIVE", "1x1", "i")
	stoppedA := first.Expect("ENCODE-STOP", "Stream-Channel", movedA.Get("Stream-Channel")) // and goes on until its source ends
	tb.awaitText("tbody tr:first-child", "1 stream left")
	tb.await(`(p => p.value === 1 && p.max === 2)(document.querySelector('progress'))`)
	second.Available(movedB.Get("Stream-Channel"), movedB.Get("Stream-ID"), "HLS-LIVE", "1x1", "i")
	stoppedB := first.Expect("ENCODE-STOP", "Stream-Channel", movedB.Get("Stream-Channel"))
	tb.awaitText("tbody tr:first-child", "127.0.0.1", "2 of 10", "may be stopped")
	first.Closed(stoppedA.Get("Stream-Channel"), stoppedA.Get("Stream-ID"))
	first.Closed(stoppedB.Get("Stream-Channel"), stoppedB.Get("Stream-ID"))
	tb.awaitText("tbody tr:first-child", "empty")
	server.Quiet() // the publishers of a and b never noticed

	tb.click(`[aria-label="Undrain ` + row(firstID) + `"]`)
	tb.confirm()
	tb.awaitText("tbody tr:first-child", "ready")

	// Without moving: the streams stay, then they are moved after all.
	tb.click(`[aria-label="Drain ` + row(secondID) + `"]`)
	tb.confirm()
	tb.awaitText("tbody tr:last-child", "draining", "2 streams left")
	tb.click(`[aria-label="Move streams of ` + row(secondID) + `"]`)
	tb.confirm()
	first.Expect("ENCODE-START")
	tb.awaitText("tbody tr:last-child", "moving")

	tb.click(`nav a[href="#servers"]`)
	tb.awaitRows(1)
	tb.click("tbody button")
	tb.awaitText("#confirm-text", "New publishers on it are refused; the 2 streams it has go on")
	tb.confirm()
	tb.awaitText("tbody", "draining", "2 streams left")
	server.Send("PUBLISH-REQUEST", "Request-ID", "1", "Stream-Channel", "c", "Stream-Key", "k", "User-IP", "10.0.0.1")
	server.Expect("PUBLISH-DENY", "Request-ID", "1")
	tb.click("tbody button")
	tb.confirm()
	tb.awaitText("tbody", "ready")
	tb.faultless()
}

func lossStory(t *testing.T, browser context.Context) {
	d := startDaemon(t)
	tb := openTab(t, browser)
	tb.open("http://" + d.Addr + "/dashboard")
	tb.awaitText("#connection", "Live")
	value[any](tb, `window.sameDocument = true`)
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	tb.awaitText("#lost", "No connection to the coordinator.", "Shown is the state of ", " ago. Next try in ")
	tb.awaitText("#connection", "Connection lost")
	tb.awaitText("#encoders", "0") // what was known is still there

	_, port, _ := net.SplitHostPort(d.Addr)
	again := startDaemon(t, "HTTP_PORT="+port)
	encoder := again.DialPeer("hls")
	encoder.Send("REGISTER", "Capacity", "3")
	tb.awaitText("#connection", "Live")
	tb.await(`document.querySelector('#lost').hidden`)
	tb.awaitText("#encoders", "1")
	if !value[bool](tb, `window.sameDocument === true`) {
		t.Error("the page was loaded again")
	}
	again.Stop()
	tb.awaitText("#lost", "No connection")
	tb.faultless()
}

func gatewaysStory(t *testing.T, browser context.Context) {
	c := newGatewayCluster(t)
	tb := openTab(t, browser)
	tb.open("http://" + c.p.Addr + "/dashboard#servers")
	tb.awaitText("#connection", "Live")
	server, _ := c.p.Join("rtmp")
	tb.awaitRows(1)
	if value[bool](tb, `document.querySelector('#to-gateways').checkVisibility() || document.querySelector('th.gateway').checkVisibility()`) {
		t.Error("gateways are shown where there are none")
	}
	g := c.addGateway(false)
	encoder, _ := g.Register(4)
	clustertest.Publish(server, encoder, "chan")
	tb.awaitText("#to-gateways", "Gateways 1")
	tb.awaitText("td.gateway", "none")
	id := clustertest.Get[clustertest.GatewayPage](c.p.Daemon, "/commands/gateways").Gateways[0].ID
	act(tb, chromedp.Navigate("http://"+c.p.Addr+"/dashboard#encoders"))
	tb.awaitText("td.gateway", id[:8])
	tb.click("td.gateway a")
	tb.awaitText("tbody", id, "linked", "127.0.0.1", version)
	tb.awaitText("#shown", "1–1 of 1")
	if got := value[string](tb, `location.hash`); got != "#gateways?q="+id {
		t.Errorf("the gateway's link leads to %s", got)
	}
	g.Signal(syscall.SIGKILL)
	tb.awaitText("tbody", "absent")
	tb.awaitText("#to-gateways", "1 · 1 absent")
	tb.awaitText(".empty", "Nothing matches")                            // it is given up
	tb.await(`document.querySelector('#to-gateways').checkVisibility()`) // the page is at this list
	tb.faultless()
}

func standbyStory(t *testing.T, browser context.Context) {
	c := newReplicatedCluster(t)
	c.addGateway(false).Register(3)
	leader, other := openTab(t, browser), openTab(t, browser)
	leader.open("http://" + c.p.Addr + "/dashboard")
	leader.awaitText("#about", " · leads for ", " · epoch 1")
	leader.awaitText("#encoders", "1")
	other.size(360, 640)
	act(other, chromedp.Navigate("http://"+c.standby.Addr+"/dashboard"))
	other.awaitText("#lost", "This coordinator stands by. Open this page at the one that leads, or at a gateway. Next try in ")
	other.awaitText("#connection", "Standing by")
	for _, fault := range value[[]string](other, contrastFaults) {
		t.Errorf("contrast: %s", fault)
	}
	c.stop()
	other.awaitText("#about", " · epoch 2")
	other.awaitText("#connection", "Live")
	other.awaitText("#encoders", "1")
	leader.awaitText("#lost", "No connection to the coordinator.")
	leader.faultless()
	other.faultless()
}

package e2e

// The dashboard's stories that need a made-up cluster: very many rows, faults, and values no honest peer sends.

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"coordinator/internal/clustertest"
	"coordinator/internal/httpjson"

	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

func manyStreamsStory(t *testing.T, browser context.Context) {
	cluster := newClusterDouble(t)
	now := time.Now()
	cluster.change(func() {
		cluster.streams = make([]clustertest.StreamRow, 100_000)
		for i := range cluster.streams {
			cluster.streams[i] = clustertest.StreamRow{
				Channel: fmt.Sprintf("channel-%06d", i), StreamID: fmt.Sprintf("ID%06d", i), State: "live",
				StreamServer: 7, Encoder: uint64(i % 10), Since: now.Add(-time.Duration(i) * time.Minute),
			}
		}
	})
	tb := openTab(t, browser)
	tb.open(cluster.url + "/dashboard")
	tb.awaitText("#shown", "1–50 of 100,000")
	tb.awaitFirst("Channel", "channel-000000")
	tb.click("#previous") // there is none
	tb.click("#next")
	tb.awaitText("#shown", "51–100 of 100,000")
	tb.awaitFirst("Channel", "channel-000050")
	tb.await(`document.activeElement.id === 'next'`)
	tb.click("#next")
	tb.awaitFirst("Channel", "channel-000100")
	tb.click("#previous")
	tb.awaitFirst("Channel", "channel-000050")

	// Sorting begins again at the first page; a second press turns it round.
	tb.sortBy("Live for", "ascending")
	tb.awaitText("#shown", "1–50 of 100,000")
	tb.awaitFirst("Channel", "channel-000000")
	tb.sortBy("Live for", "descending")
	tb.awaitFirst("Channel", "channel-099999")
	tb.sortBy("Channel", "ascending")
	tb.awaitFirst("Channel", "channel-000000")
	if n := value[int](tb, `document.querySelectorAll('[aria-sort]').length`); n != 1 {
		t.Errorf("%d columns say that they are sorted", n)
	}

	// A search waits until the typing pauses, and asks once.
	before := cluster.askedFor()
	tb.typeInto("#search", "0099")
	tb.awaitText("#shown", "1–50 of 120")
	if asked := cluster.askedFor() - before; asked > 20 {
		t.Errorf("asked %d times for one search", asked)
	}
	tb.await(`location.hash === '#streams?q=0099&sort=channel'`)
	act(tb, chromedp.Reload())
	tb.awaitText("#shown", "1–50 of 120")
	tb.await(`document.querySelector('#search').value === '0099'`)
	tb.click("#next")
	tb.awaitText("#shown", "51–100 of 120")
	tb.click("#next")
	tb.awaitText("#shown", "101–120 of 120")
	tb.await(`document.querySelector('#next').ariaDisabled === 'true'`)

	// The page that is shown empties: the one before it is shown.
	cluster.change(func() {
		cluster.streams = slices.DeleteFunc(cluster.streams, func(row clustertest.StreamRow) bool { return row.Channel >= "channel-009960" })
	})
	tb.awaitText("#shown", "51–71 of 71")
	tb.await(`document.querySelector('#connection').textContent === 'Live'`)

	// An order that the coordinator does not know is forgotten.
	act(tb, chromedp.Navigate(cluster.url+"/dashboard#streams?sort=colour"))
	tb.awaitFirst("Channel", "channel-000000")
	tb.awaitText("#connection", "Live")
	tb.faultless()
}

func (tb *tab) awaitFirst(column, text string) {
	tb.t.Helper()
	tb.await(fmt.Sprintf(`document.querySelector('tbody [data-title=%s]')?.textContent === %s`, quoted(column), quoted(text)))
}

// sortBy presses the button in a column's head and waits until the head says so.
func (tb *tab) sortBy(title, direction string) {
	tb.t.Helper()
	find := fmt.Sprintf(`[...document.querySelectorAll('th button')].find(b => b.textContent === %s)`, quoted(title))
	if value[string](tb, find+`.closest('th').ariaSort ?? ''`) == direction {
		return
	}
	value[any](tb, find+".click()")
	tb.await(fmt.Sprintf(`%s.closest('th').ariaSort === %s`, find, quoted(direction)))
}

func hostileNamesStory(t *testing.T, browser context.Context) {
	const hostile = `<img src=x onerror="window.owned=1"><script>window.owned=1</script>"'&javascript:alert(1)`
	cluster := newClusterDouble(t)
	cluster.change(func() {
		cluster.streams = []clustertest.StreamRow{{Channel: hostile, StreamID: hostile, State: hostile, Since: time.Now(), Encoder: 1, StreamServer: 2, Announced: []clustertest.Output{{StreamType: hostile, Resolution: hostile, IndexFile: hostile}}}}
		cluster.servers = []clustertest.Server{{ID: 1, IP: hostile, ServerType: hostile}}
		cluster.overview.Version = hostile
		cluster.overview.Ready, cluster.overview.NotReady = false, []string{hostile}
	})
	tb := openTab(t, browser)
	elements := `document.querySelectorAll('img, #cluster script, [onerror], [href^="javascript"]').length`
	check := func(where string) {
		t.Helper()
		if n := value[int](tb, elements); n != 0 || value[bool](tb, `'owned' in window`) {
			t.Errorf("%s: a name became %d elements", where, n)
		}
	}
	tb.open(cluster.url + "/dashboard")
	tb.awaitText("tbody", hostile)
	tb.awaitText("#ready", hostile)
	check("streams")
	tb.click("tbody button")
	tb.awaitText("#confirm-title", hostile)
	check("confirmation")
	cluster.change(func() {
		cluster.fault = func(w http.ResponseWriter, r *http.Request) {
			httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedHeader, hostile)
		}
	})
	tb.click("#confirm-yes")
	tb.awaitText("#confirm-error", "Not done: ")
	check("refused order")
	tb.press(kb.Escape)
	tb.awaitText("#lost", hostile)
	check("banner")
	cluster.change(func() { cluster.fault = nil })
	act(tb, chromedp.Navigate(cluster.url+"/dashboard#servers"))
	tb.awaitText("tbody", hostile)
	check("servers")
	act(tb, chromedp.Navigate(cluster.url+"/dashboard#servers?q=%3Cimg+onerror%3D1%3E"))
	tb.awaitText(".empty", "Nothing matches “<img onerror=1>”.")
	check("search")
	tb.faultless()
}

func hiddenStory(t *testing.T, browser context.Context) {
	cluster := newClusterDouble(t)
	tb := openTab(t, browser)
	tb.open(cluster.url + "/dashboard")
	tb.awaitText("#connection", "Live")
	hide := func(hidden bool) {
		value[any](tb, fmt.Sprintf(`Object.defineProperty(document, 'hidden', { value: %t, configurable: true }); document.dispatchEvent(new Event('visibilitychange'))`, hidden))
	}
	// Hidden while an answer is awaited, and later while nothing is under way: either way nothing waits to ask again.
	held := make(chan struct{})
	before := cluster.askedFor()
	cluster.change(func() { cluster.hold, cluster.overview.Streams.Live = held, 1234 })
	for deadline := time.Now().Add(clustertest.Patience); cluster.askedFor() < before+2; {
		if value[any](tb, `new Promise((done) => requestAnimationFrame(done))`); time.Now().After(deadline) {
			t.Fatal("the page does not ask")
		}
	}
	hide(true)
	cluster.change(func() { cluster.hold = nil })
	close(held)
	tb.awaitText("#live", "1,234")
	if n := value[int](tb, `longTimers.size`); n != 0 {
		t.Errorf("%d timers wait after an answer to a hidden page", n)
	}
	hide(false)
	tb.await(`longTimers.size === 1`)
	hide(true)
	if n := value[int](tb, `longTimers.size`); n != 0 {
		t.Errorf("%d timers wait while the page is hidden", n)
	}
	cluster.change(func() { cluster.overview.Streams.Live = 4321 })
	hide(false)
	tb.awaitText("#live", "4,321")
	tb.await(`longTimers.size === 1`)
	tb.faultless()
}

func refusedOrderStory(t *testing.T, browser context.Context) {
	cluster := newClusterDouble(t)
	tb := openTab(t, browser)
	tb.open(cluster.url + "/dashboard#encoders")
	tb.awaitRows(12)
	tb.click("tbody tr:first-child button")
	cluster.change(func() {
		cluster.fault = func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				httpjson.Error(w, http.StatusNotFound, httpjson.UnknownSession, "no such session")
				return
			}
			panic(http.ErrAbortHandler)
		}
	})
	tb.click("#confirm-yes")
	tb.awaitText("#confirm-error", "Not done: no such session")
	tb.await(`document.querySelector('dialog').open && !document.querySelector('#confirm-yes').disabled`)

	// The credentials are no longer good: the form comes, whatever is open.
	cluster.change(func() {
		cluster.fault = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="x"`)
			httpjson.Error(w, http.StatusUnauthorized, httpjson.Unauthorized, "authorization required")
		}
	})
	tb.click("#confirm-yes")
	tb.await(`document.activeElement.id === 'token' && !document.querySelector('dialog').open`)
	if value[bool](tb, `document.querySelector('#cluster').checkVisibility()`) {
		t.Error("data is shown to who is not signed in")
	}
	tb.faultless()
}

// Basic credentials were changed, and the operator has sent away the browser's dialogue.
func otherCredentialsStory(t *testing.T, browser context.Context) {
	cluster := newClusterDouble(t)
	tb := openTab(t, browser)
	tb.open(cluster.url + "/dashboard")
	stop := tb.answerDialogue(fetch.AuthChallengeResponse{Response: fetch.AuthChallengeResponseResponseCancelAuth})
	cluster.change(func() {
		cluster.fault = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			httpjson.Error(w, http.StatusUnauthorized, httpjson.Unauthorized, "authorization required")
		}
	})
	tb.awaitText("#lost", "Not signed in. The coordinator asks for other credentials: reload the page")
	tb.await(`longTimers.size === 0 && document.querySelector('#sign-in').hidden`)
	stop()
	cluster.change(func() { cluster.fault = nil })
	tb.click("#retry")
	tb.awaitText("#connection", "Live")
	tb.faultless()
}

func emptyClusterStory(t *testing.T, browser context.Context) {
	cluster := newClusterDouble(t)
	cluster.change(func() {
		cluster.streams, cluster.servers = nil, nil
		cluster.encoders = []clustertest.Encoder{{ID: 5, Address: "10.20.3.11", Capacity: -1, Load: 3, Serving: 3}}
		cluster.overview = clustertest.Overview{
			Slots: clustertest.SlotTotals{Used: 3, Capacity: -1}, Encoders: clustertest.EncoderTotals{Total: 1}, NotReady: []string{"stopping"},
			History: clustertest.History{StepSeconds: 10, Load: []int{}, Capacity: []int{}, Publishes: []int64{}, Denials: []int64{}, EventsPending: []int{}},
		}
	})
	tb := openTab(t, browser)
	tb.open(cluster.url + "/dashboard#encoders")
	tb.awaitText("#slots-note", "No limit")
	tb.awaitText("tbody", "no limit")
	tb.awaitText("#ready", "Not ready: stopping")
	tb.awaitText("#chart-0-summary", "Nothing recorded yet.")
	cluster.change(func() {
		cluster.overview.History = clustertest.History{StepSeconds: 10, Load: []int{0, 3}, Capacity: []int{4, -1}, Publishes: []int64{0, 3}, Denials: []int64{0, 0}, EventsPending: []int{0, 0}}
	})
	tb.awaitText("#chart-0-summary", "Now 3 slots used, no limit; between 0 and 3 in the last 20 s.")
	tb.awaitText(".legend", "no limit")
	tb.faultless()
}

// screenshotsStory writes the pictures of README and docs/ into the folder that SCREENSHOTS names.
func screenshotsStory(t *testing.T, browser context.Context) {
	folder := os.Getenv("SCREENSHOTS")
	if folder == "" {
		t.Skip("SCREENSHOTS names no folder")
	}
	cluster := newClusterDouble(t)
	tb := openTab(t, browser)
	tb.open(cluster.url + "/dashboard")
	tb.awaitRows(50)
	tb.screenshot(filepath.Join(folder, "dashboard-light.png"))
	act(tb, chromedp.Navigate(cluster.url+"/dashboard#encoders"))
	tb.awaitRows(12)
	cluster.change(func() { cluster.encoders[3].Serving = 2 }) // of those that are being moved, so many are left
	tb.awaitText("tbody", "2 streams left")
	tb.scheme("dark")
	tb.screenshot(filepath.Join(folder, "dashboard-dark.png"))
	tb.scheme("light")
	tb.size(phoneWidth, phoneHeight)
	tb.screenshot(filepath.Join(folder, "dashboard-phone.png"))
	tb.size(desktopWidth, desktopHeight)
	cluster.change(cluster.addGateways)
	act(tb, chromedp.Navigate(cluster.url+"/dashboard#gateways"))
	tb.awaitRows(3)
	tb.screenshot(filepath.Join(folder, "dashboard-gateways.png"))
	tb.faultless()
}

package e2e

// A real browser for tests: one Chromium for a test, one tab with a session of its own for each story. Where no browser
// is installed the test is skipped, but with CI=true it fails.

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"coordinator/internal/clustertest"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

func startBrowser(t *testing.T) context.Context {
	t.Helper()
	path := findBrowser(t)
	alloc, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-extensions", true),
		chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("font-render-hinting", "none"),
		chromedp.WSURLReadTimeout(2*clustertest.Patience),
	)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(func() {
		closing, done := context.WithTimeout(ctx, clustertest.Patience)
		defer done()
		_ = chromedp.Cancel(closing)
		cancel()
		stop()
		chromedp.FromContext(ctx).Allocator.Wait()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal("start of the browser:", err)
	}
	return ctx
}

func findBrowser(t *testing.T) string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no browser: install Debian's chromium")
	}
	t.Skip("no browser is installed (chromium): the dashboard is not tested in one")
	return ""
}

// tab is a window with cookies, storage and credentials of its own. Its methods end the test when they fail.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu sync.Mutex
	// guarded by mu
	faults []string // exceptions, and what the Content-Security-Policy has stopped
}

const (
	desktopWidth, desktopHeight = 1440, 900
	phoneWidth, phoneHeight     = 360, 740
)

// hasten has the page's own clock run ten times as fast, and counts the timers that wait for a second or more.
const hasten = `(() => {
	const set = window.setTimeout, clear = window.clearTimeout, every = window.setInterval;
	window.longTimers = new Set();
	window.setTimeout = (f, ms) => {
		const id = set(() => { longTimers.delete(id); f(); }, ms / 10);
		if (ms >= 1000) longTimers.add(id);
		return id;
	};
	window.clearTimeout = (id) => { longTimers.delete(id); clear(id); };
	window.setInterval = (f, ms) => every(f, ms / 10);
})()`

func openTab(t *testing.T, browser context.Context) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	tb := &tab{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, tb.hear); err != nil {
		t.Fatal("opening a tab:", err)
	}
	command(tb, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: hasten})
	command(tb, cdplog.Enable, cdp.Empty{})
	tb.size(desktopWidth, desktopHeight)
	tb.scheme("light")
	return tb
}

func (tb *tab) hear(ev any) {
	var fault string
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		fault = fmt.Sprintf("%s %+v", ev.ExceptionDetails.Text, ev.ExceptionDetails.Exception)
	case *cdplog.EventEntryAdded:
		if ev.Entry.Level != cdplog.EntryLevelError || ev.Entry.Source == cdplog.EntrySourceNetwork {
			return
		}
		fault = ev.Entry.Text
	default:
		return
	}
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.faults = append(tb.faults, fault)
}

// faultless is called at the end of a story.
func (tb *tab) faultless() {
	tb.t.Helper()
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for _, f := range tb.faults {
		tb.t.Error("fault in the page:", f)
	}
}

// act does something in the tab and returns its value.
func act[T any](tb *tab, action chromedp.Action[T]) T {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, 2*clustertest.Patience)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		tb.t.Fatal(err)
	}
	return v
}

// command gives the browser an order of its protocol.
func command[P, R any](tb *tab, c cdp.Command[P, R], params P) R {
	tb.t.Helper()
	return act(tb, func(ctx context.Context, target *chromedp.Target) (R, error) { return cdp.Call(ctx, target, c, params) })
}

func (tb *tab) size(width, height int64) {
	tb.t.Helper()
	act(tb, chromedp.EmulateViewport(width, height, chromedp.EmulateScale(2)))
}

func (tb *tab) scheme(name string) {
	tb.t.Helper()
	command(tb, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	})
}

// open loads a page and waits until it shows data or the form to sign in.
func (tb *tab) open(url string) {
	tb.t.Helper()
	act(tb, chromedp.Navigate(url))
	tb.await(`document.readyState === 'complete' && !(document.querySelector('#cluster')?.hidden && document.querySelector('#sign-in').hidden)`)
}

// await waits until a JavaScript expression is true. The page's policy forbids eval, so it is asked from outside.
func (tb *tab) await(expression string) {
	tb.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(clustertest.Patience); ; <-tick.C {
		ctx, cancel := context.WithTimeout(tb.ctx, clustertest.Patience)
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		cancel()
		if err == nil && is {
			return
		}
		if time.Now().After(deadline) {
			tb.t.Fatalf("never true: %s (%v)\npage: %s", expression, err, tb.text("body"))
		}
	}
}

// value evaluates a JavaScript expression.
func value[T any](tb *tab, expression string) T {
	tb.t.Helper()
	return act(tb, chromedp.Evaluate[T](expression))
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func (tb *tab) text(selector string) string {
	tb.t.Helper()
	return value[string](tb, fmt.Sprintf(`document.querySelector(%s)?.innerText ?? '(none)'`, quoted(selector)))
}

// awaitText waits until an element that can be seen holds all parts.
func (tb *tab) awaitText(selector string, parts ...string) {
	tb.t.Helper()
	var checks []string
	for _, p := range parts {
		checks = append(checks, "e.innerText.includes("+quoted(p)+")")
	}
	tb.await(fmt.Sprintf(`(e => e && e.checkVisibility() && %s)(document.querySelector(%s))`, strings.Join(checks, "&&"), quoted(selector)))
}

// click presses the mouse on an element.
func (tb *tab) click(selector string) {
	tb.t.Helper()
	tb.await(`document.querySelector(` + quoted(selector) + `)?.checkVisibility()`)
	act(tb, chromedp.Click(chromedp.CSS(selector)))
}

// confirm gives the order that the dialog asks about. The page may show what follows before the dialog has the answer and is closed.
func (tb *tab) confirm() {
	tb.t.Helper()
	tb.click("#confirm-yes")
	tb.await(`!document.querySelector('#confirm').open`)
}

func (tb *tab) typeInto(selector, text string) {
	tb.t.Helper()
	act(tb, chromedp.SendKeys(chromedp.CSS(selector), text))
}

func (tb *tab) press(key string) {
	tb.t.Helper()
	act(tb, chromedp.KeyEvent(key))
}

func (tb *tab) awaitRows(n int) {
	tb.t.Helper()
	tb.await(fmt.Sprintf(`document.querySelectorAll('tbody tr').length === %d`, n))
}

func (tb *tab) screenshot(name string) {
	tb.t.Helper()
	png := act(tb, chromedp.CaptureScreenshot())
	if err := os.WriteFile(name, png, 0o644); err != nil {
		tb.t.Fatal(err)
	}
}

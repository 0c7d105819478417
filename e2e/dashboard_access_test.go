package e2e

// Whether the dashboard can be used without a mouse, without colours and without eyes, checked on what the browser makes of
// it: the accessibility tree, and the colours as they are computed.

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"coordinator/internal/httpjson"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// contrastFaults lists the texts that can be seen and have less contrast than WCAG 2.2, 1.4.3 (AA) asks for. Backgrounds
// that shine through, and opacity, are computed in.
const contrastFaults = `(() => {
	const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return { rgb: m.slice(0, 3), a: m[3] ?? 1 }; };
	const over = (top, a, below) => top.map((v, i) => v * a + below[i] * (1 - a));
	const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const behind = (e) => {
		if (!e) return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
		const { rgb, a } = parse(getComputedStyle(e).backgroundColor);
		return a === 1 ? rgb : over(rgb, a, behind(e.closest('dialog') === e ? null : e.parentElement));
	};
	const ratio = (e, color) => {
		let opacity = 1;
		for (let p = e; p; p = p.parentElement) opacity *= Number(getComputedStyle(p).opacity);
		const back = behind(e), { rgb, a } = parse(color);
		const [x, y] = [light(over(rgb, a * opacity, back)), light(back)].sort((m, n) => n - m);
		return (x + 0.05) / (y + 0.05);
	};
	const faults = new Set();
	const check = (e, color, text) => {
		const style = getComputedStyle(e), size = parseFloat(style.fontSize);
		const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
		const r = ratio(e, color);
		if (r < least) faults.add(text.trim().slice(0, 30) + ' ' + color + ' ' + r.toFixed(2));
	};
	let texts = 0;
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n = walker.nextNode(); n; n = walker.nextNode()) {
		const e = n.parentElement;
		if (!n.data.trim() || !e.checkVisibility({ visibilityProperty: true }) || e.closest('.unseen, noscript, svg')) continue;
		texts++;
		check(e, getComputedStyle(e).color, n.data);
	}
	for (const e of document.querySelectorAll('input[placeholder]')) {
		if (e.checkVisibility()) check(e, getComputedStyle(e, '::placeholder').color, e.placeholder);
	}
	if (texts < 4) faults.add('only ' + texts + ' texts seen');
	return [...faults];
})()`

// smallTargets lists what can be pressed and is smaller than WCAG 2.2, 2.5.8 (AA) asks for; links within text may be.
const smallTargets = `[...document.querySelectorAll('button, input, nav a')].filter((e) => e.checkVisibility())
	.filter((e) => { const b = e.getBoundingClientRect(); return b.width < 24 || b.height < 24; })
	.filter((e) => e.type !== 'checkbox').map((e) => e.outerHTML)`

// check holds what is on the screen now against the rules.
func (tb *tab) check(where string) {
	tb.t.Helper()
	for _, f := range value[[]string](tb, contrastFaults) {
		tb.t.Errorf("%s: contrast: %s", where, f)
	}
	for _, f := range value[[]string](tb, smallTargets) {
		tb.t.Errorf("%s: too small to be pressed: %s", where, f)
	}
	if wider := value[int](tb, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); wider > 0 {
		tb.t.Errorf("%s: %d px wider than the screen", where, wider)
	}
	live := value[string](tb, `[...document.querySelectorAll('[aria-live], [role=status]')].map((e) => e.id).join()`)
	if live != "connection" {
		tb.t.Errorf("%s: spoken of by themselves: %s", where, live)
	}
	tb.checkTree(where)
}

func (tb *tab) checkTree(where string) {
	tb.t.Helper()
	tree := command(tb, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	interactive := map[string]bool{
		"button": true, "link": true, "textbox": true, "searchbox": true, "checkbox": true, "meter": true,
		"dialog": true, "table": true, "image": true, "img": true, "navigation": true, "region": true, "progressbar": true, "ProgressIndicator": true,
	}
	seen := map[string]int{}
	buttons := map[string]bool{}
	level := 0
	for _, n := range tree.Nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		role, name := axText(n.Role), axText(n.Name)
		seen[role]++
		if interactive[role] && strings.TrimSpace(name) == "" {
			tb.t.Errorf("%s: a %s without a name", where, role)
		}
		if role == "button" {
			if buttons[name] {
				tb.t.Errorf("%s: two buttons are called %q", where, name)
			}
			buttons[name] = true
		}
		if role == "heading" {
			for _, p := range n.Properties {
				if p.Name != "level" {
					continue
				}
				var l int
				fmt.Sscan(axText(p.Value), &l)
				if l > level+1 && !(l == 2 && seen["dialog"] > 0) || l == 1 && level > 0 {
					tb.t.Errorf("%s: heading %q of level %d after level %d", where, name, l, level)
				}
				level = l
			}
		}
	}
	if seen["main"] != 1 && seen["dialog"] == 0 || level == 0 {
		tb.t.Errorf("%s: one main and some headings wanted: %v", where, seen)
	}
}

func axText(v *accessibility.Value) string {
	if v == nil {
		return ""
	}
	var text any
	if json.Unmarshal(v.Value, &text) != nil {
		return ""
	}
	return fmt.Sprint(text)
}

func accessibleStory(t *testing.T, browser context.Context) {
	cluster := newClusterDouble(t)
	cluster.change(cluster.addGateways)
	tb := openTab(t, browser)
	fault := func(f http.HandlerFunc) { cluster.change(func() { cluster.fault = f }) }
	for _, scheme := range []string{"light", "dark"} {
		for size, width := range map[string]int64{"desktop": desktopWidth, "tablet": 800, "phone": phoneWidth} {
			where := scheme + " " + size + " "
			tb.scheme(scheme)
			tb.size(width, phoneHeight)
			for list, rows := range map[string]int{"gateways": 3, "denials": 4, "events": 4, "streams": 50, "encoders": 12, "servers": 8} {
				act(tb, chromedp.Navigate(cluster.url+"/dashboard#"+list))
				tb.awaitRows(rows)
				tb.await(`document.querySelector('nav [aria-current]').hash === '#` + list + `'`)
				tb.check(where + list)
			}
			if value[bool](tb, `['#gateways', '#denials'].includes(location.hash)`) { // whose rows have no button
				act(tb, chromedp.Navigate(cluster.url+"/dashboard#streams"))
				tb.awaitRows(50)
			}
			tb.click("tbody button")
			tb.await(`document.querySelector('dialog').open`)
			tb.check(where + "confirmation")
			fault(func(w http.ResponseWriter, r *http.Request) {
				httpjson.Error(w, http.StatusServiceUnavailable, httpjson.Restoring, "overload")
			})
			tb.click("#confirm-yes")
			tb.awaitText("#confirm-error", "overload")
			tb.check(where + "refused order")
			tb.press(kb.Escape)
			tb.awaitText("#lost", "overload")
			tb.check(where + "lost")
			fault(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", "Bearer")
				httpjson.Error(w, http.StatusUnauthorized, httpjson.Unauthorized, "authorization required")
			})
			tb.await(`document.querySelector('#sign-in').checkVisibility()`) // at the next try
			tb.typeInto("#token", "wrong"+kb.Enter)
			tb.awaitText("#sign-in-error", "did not accept")
			tb.check(where + "sign in")
			fault(nil)
			tb.typeInto("#token", "right"+kb.Enter)
			tb.awaitText("#connection", "Live")
		}
	}
	tb.faultless()
}

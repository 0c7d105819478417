package main

// The dashboard's stories in a real browser.

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestDashboardInBrowser(t *testing.T) {
	t.Parallel()
	browser := startBrowser(t)
	for name, story := range map[string]func(*testing.T, context.Context){
		"screenshots": screenshotsStory,
	} {
		t.Run(name, func(t *testing.T) { story(t, browser) })
	}
}

// screenshotsStory writes the README's pictures into the folder that SCREENSHOTS names.
func screenshotsStory(t *testing.T, browser context.Context) {
	folder := os.Getenv("SCREENSHOTS")
	if folder == "" {
		t.Skip("SCREENSHOTS is not set")
	}
	cluster := newClusterDouble(t)
	tb := openTab(t, browser)
	tb.open(cluster.url + "/dashboard")
	tb.screenshot(filepath.Join(folder, "dashboard-light.png"))
	tb.scheme("dark")
	tb.screenshot(filepath.Join(folder, "dashboard-dark.png"))
	tb.scheme("light")
	tb.size(phoneWidth, phoneHeight)
	tb.screenshot(filepath.Join(folder, "dashboard-phone.png"))
	tb.faultless()
}

package clustertest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Scrape returns the value of each sample, by its name with labels as they are written.
func (d *Daemon) Scrape() map[string]float64 {
	d.T.Helper()
	status, body := d.Call("GET", "/metrics")
	if status != 200 {
		d.T.Fatalf("metrics: %d %s", status, body)
	}
	return Samples(d.T, body)
}

// AwaitMetrics scrapes until all samples are as wanted. A sample that is missing is never as wanted.
func (d *Daemon) AwaitMetrics(wanted map[string]float64) {
	d.T.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); ; <-tick.C {
		values := d.Scrape()
		var wrong []string
		for sample, want := range wanted {
			if got, there := values[sample]; !there || got != want {
				wrong = append(wrong, fmt.Sprintf("%s is %v (there: %v), want %v", sample, got, there, want))
			}
		}
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			d.T.Fatal(strings.Join(wrong, "\n"))
		}
	}
}

// AwaitMetric scrapes until a sample is above 0.
func (d *Daemon) AwaitMetric(sample string) {
	d.T.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); d.Scrape()[sample] <= 0; <-tick.C {
		if time.Now().After(deadline) {
			d.T.Fatalf("%s stays at 0", sample)
		}
	}
}

// Samples reads the text format of Prometheus: the value of each sample, by its name with labels as they are written.
func Samples(t testing.TB, exposition string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for line := range strings.Lines(exposition) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndex(line, " ")
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("sample %q: %v", line, err)
		}
		values[line[:i]] = value
	}
	return values
}

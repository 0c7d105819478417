package main

// What a run ends with: a table for people, JSON for programs, and whether it was clean.

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// figure is one number with what it should reach, "" if nothing.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
	Reach string  `json:"reach,omitempty"`
	Note  string  `json:"note,omitempty"`
}

// result is what was seen of one coordinator. Latencies and CPU times are in milliseconds; CPU and memory are 0 if the
// coordinator is not a child of this process; those of gateways are of all together. Counts of events are of the whole run, warm-up included.
type result struct {
	Target          string      `json:"target"`
	Gateways        int         `json:"gateways"`
	Lives           int64       `json:"lives"`
	Seconds         float64     `json:"seconds"`
	LivesPerSecond  float64     `json:"livesPerSecond"`
	Accept          percentiles `json:"acceptLatency"`
	Event           percentiles `json:"eventLatency"`
	CPUPerLife      float64     `json:"cpuPerLife"`
	FrontCPUPerLife float64     `json:"gatewaysCpuPerLife"`
	OwnCPUPerLife   float64     `json:"loadToolCpuPerLife"`
	MemoryKiB       float64     `json:"memoryKiB"`
	FrontMemoryKiB  float64     `json:"gatewaysMemoryKiB"`
	Connections     int64       `json:"connectionsToApplication"`
	EventsTold      int64       `json:"eventsTold"`
	EventsArrived   int64       `json:"eventsArrived"`
	Lost            int64       `json:"eventsLost"`
	Repeated        int64       `json:"eventsRepeated"`
	OutOfOrder      int64       `json:"eventsOutOfOrder"`
	Unexpected      int64       `json:"unexpectedMessages"`
	Denied          int64       `json:"publishersDenied"`
	Killed          int64       `json:"publishersKilled"`
	Unfinished      int64       `json:"livesUnfinished"`
	Disconnected    int64       `json:"peersDisconnected"`
	Figures         []figure    `json:"figures,omitempty"`
}

// faults names what must not happen, whatever the load. A repeated event is none: delivery is at least once.
func (r *result) faults() []string {
	var list []string
	for _, f := range []struct {
		n    int64
		what string
	}{
		{r.Lost, "events lost"},
		{r.OutOfOrder, "events out of order"},
		{r.Unexpected, "unexpected messages or events"},
		{r.Unfinished, "lives unfinished"},
		{r.Denied, "publishers denied"},
		{r.Killed, "publishers killed"},
		{r.Disconnected, "peers disconnected"},
	} {
		if f.n > 0 {
			list = append(list, fmt.Sprintf("%s: %d %s", r.Target, f.n, f.what))
		}
	}
	return list
}

// report is a whole run.
type report struct {
	Profile string   `json:"profile"`
	Results []result `json:"results"`
	Ratios  []figure `json:"ratios,omitempty"`
	Faults  []string `json:"faults"` // empty: nothing lost, nothing out of order
	Verdict string   `json:"verdict,omitempty"`
}

func newReport(profile string, results []result, ratios ...figure) *report {
	r := &report{Profile: profile, Results: results, Ratios: ratios, Faults: []string{}}
	for i := range results {
		r.Faults = append(r.Faults, results[i].faults()...)
	}
	return r
}

func (r *report) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

func (r *report) writeTable(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, cell func(*result) string) {
		fmt.Fprint(table, name)
		for i := range r.Results {
			fmt.Fprint(table, "\t", cell(&r.Results[i]))
		}
		fmt.Fprintln(table)
	}
	row("profile "+r.Profile, func(r *result) string { return r.Target })
	row("stream lives", func(r *result) string {
		if r.Lives == 0 {
			return "-"
		}
		return fmt.Sprintf("%d in %.1f s", r.Lives, r.Seconds)
	})
	row("lives per second", func(r *result) string { return known("%.0f", r.LivesPerSecond) })
	row("accept latency p50/p99/p99.9/max", func(r *result) string { return r.Accept.String() })
	row("event latency p50/p99/p99.9/max", func(r *result) string { return r.Event.String() })
	row("CPU time per life", func(r *result) string { return known("%.3f ms", r.CPUPerLife) })
	row("  of all gateways", func(r *result) string { return known("%.3f ms", r.FrontCPUPerLife) })
	row("  of the load tool itself", func(r *result) string { return known("%.3f ms", r.OwnCPUPerLife) })
	row("memory (VmRSS)", func(r *result) string { return known("%.1f MiB", r.MemoryKiB/1024) })
	row("  of all gateways", func(r *result) string { return known("%.1f MiB", r.FrontMemoryKiB/1024) })
	row("connections to the application", func(r *result) string { return fmt.Sprint(r.Connections) })
	row("events told/arrived", func(r *result) string { return fmt.Sprintf("%d/%d", r.EventsTold, r.EventsArrived) })
	row("events lost/repeated/out of order", func(r *result) string { return fmt.Sprintf("%d/%d/%d", r.Lost, r.Repeated, r.OutOfOrder) })
	row("unexpected messages", func(r *result) string { return fmt.Sprint(r.Unexpected) })
	row("publishers denied/killed", func(r *result) string { return fmt.Sprintf("%d/%d", r.Denied, r.Killed) })
	if err := table.Flush(); err != nil {
		return err
	}

	rest := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range r.Results {
		writeFigures(rest, r.Results[i].Figures)
	}
	writeFigures(rest, r.Ratios)
	for _, fault := range r.Faults {
		fmt.Fprintln(rest, "FAULT\t"+fault)
	}
	if r.Verdict != "" {
		fmt.Fprintln(rest, "VERDICT\t"+r.Verdict)
	}
	return rest.Flush()
}

func writeFigures(w io.Writer, figures []figure) {
	for _, f := range figures {
		fmt.Fprintf(w, "%s\t%.4g %s", f.Name, f.Value, f.Unit)
		if f.Reach != "" {
			fmt.Fprintf(w, "\t(to reach: %s)", f.Reach)
		}
		if f.Note != "" {
			fmt.Fprintf(w, "\t%s", f.Note)
		}
		fmt.Fprintln(w)
	}
}

func (p percentiles) String() string {
	return fmt.Sprintf("%.2f/%.2f/%.2f/%.2f ms", p.P50, p.P99, p.P999, p.Max)
}

func known(format string, value float64) string {
	if value == 0 {
		return "-"
	}
	return fmt.Sprintf(format, value)
}

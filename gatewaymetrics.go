package main

// The metrics of a gateway.

import (
	"coordinator/internal/control"
	"coordinator/internal/gateway"

	"github.com/prometheus/client_golang/prometheus"
)

// gatewayMetrics counts. All methods may be called from anywhere, under locks too.
type gatewayMetrics struct {
	// set once
	exporter
	controlCounts
}

// newGatewayMetrics exposes the counts, and the state of the gateway as state finds it at each scrape.
func newGatewayMetrics(state func() gateway.State) *gatewayMetrics {
	m := &gatewayMetrics{exporter: newExporter("gateway")}
	m.controlCounts = m.newControlCounts()
	m.registry.MustRegister(newGatewayCollector(state))
	return m
}

// gatewayCollector turns the state of a gateway into metrics, all of one moment.
type gatewayCollector struct {
	state  func() gateway.State
	values []gatewayValue
}

type gatewayValue struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(gateway.State) int
}

func newGatewayCollector(state func() gateway.State) *gatewayCollector {
	c := &gatewayCollector{state: state}
	add := func(name, help string, labels prometheus.Labels, kind prometheus.ValueType, read func(gateway.State) int) {
		c.values = append(c.values, gatewayValue{prometheus.NewDesc(name, help, nil, labels), kind, read})
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	for label, kind := range map[string]control.Kind{"rtmp": control.RTMP, "ws": control.WS, "hls": control.HLS} {
		add("gateway_sockets", "Control sockets of peers.", prometheus.Labels{"type": label}, gauge, func(s gateway.State) int { return s.Sockets[kind] })
	}
	add("gateway_sessions", "Sessions of peers, including those that have ended while the coordinator does not know it yet.", nil, gauge, func(s gateway.State) int { return s.Sessions })
	add("gateway_link_up", "1 if there is a link to a coordinator, else 0.", nil, gauge, func(s gateway.State) int {
		if s.Linked {
			return 1
		}
		return 0
	})
	add("gateway_links_total", "Links to a coordinator that were made.", nil, counter, func(s gateway.State) int { return s.Links })
	const bytes, bytesHelp = "gateway_link_bytes_total", "Bytes of frames on links to a coordinator."
	add(bytes, bytesHelp, prometheus.Labels{"direction": "in"}, counter, func(s gateway.State) int { return s.BytesIn })
	add(bytes, bytesHelp, prometheus.Labels{"direction": "out"}, counter, func(s gateway.State) int { return s.BytesOut })
	add("gateway_kept_messages", "Messages of peers that are kept until the coordinator is done with them.", nil, gauge, func(s gateway.State) int { return s.Kept })
	add("gateway_kept_bytes", "Memory of the messages that are kept.", nil, gauge, func(s gateway.State) int { return s.KeptBytes })
	add("gateway_memos", "What is kept for the coordinator of sessions, publications and streams.", nil, gauge, func(s gateway.State) int { return s.Memos })
	add("gateway_unacknowledged_bytes", "Memory of what was said to the coordinator and is not acknowledged.", nil, gauge, func(s gateway.State) int { return s.UnacknowledgedBytes })
	add("gateway_denied_requests_total", "Publish requests that the gateway denied because the coordinator did not answer within 18 s.", nil, counter,
		func(s gateway.State) int { return s.Denied })
	return c
}

func (c *gatewayCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range c.values {
		ch <- v.desc
	}
}

func (c *gatewayCollector) Collect(ch chan<- prometheus.Metric) {
	state := c.state()
	for _, v := range c.values {
		ch <- prometheus.MustNewConstMetric(v.desc, v.kind, float64(v.read(state)))
	}
}

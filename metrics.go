package main

// Metrics in the text format of Prometheus. What happens is counted where it happens; what is, is read when somebody
// asks. No label holds anything that a peer or a publisher has chosen: each has a fixed set of values.

import (
	"math"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"coordinator/internal/buildinfo"
	"coordinator/internal/control"
	"coordinator/internal/lease"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// exporter is what the metrics of each role are made of. Their names begin with the role's.
type exporter struct {
	// set once
	role     string
	registry *prometheus.Registry
}

func newExporter(role string) exporter {
	e := exporter{role, prometheus.NewRegistry()}
	e.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return e
}

// metrics counts. All methods may be called from anywhere, under locks too.
type metrics struct {
	// set once
	exporter
	publishes tally // publish requests by result
	controlCounts
	eventAttempts         tally // by result
	gatewaysGone          tally // by reason
	publicationsEnded     tally // by reason
	accepts, firstLives   prometheus.Histogram
	failoverGaps          prometheus.Histogram
	discarded             prometheus.Counter
	replacements          prometheus.Counter
	verifications         prometheus.Histogram
	deliveries            prometheus.Histogram
	verified, keysRefused atomic.Int64
}

// controlCounts is what control sockets tell.
type controlCounts struct {
	// set once
	received, sent tally // messages by method
	disconnects    tally // by reason
}

func (e exporter) newControlCounts() controlCounts {
	name, help := e.role+"_control_messages_total", "Messages on control sockets."
	return controlCounts{
		received: e.newTally(name, help, prometheus.Labels{"direction": "in"}, "method",
			"PUBLISH-REQUEST", "PUBLISH-END", "REGISTER", "STREAM-AVAILABLE", "STREAM-CLOSED", "HEARTBEAT", "ERROR", "other"),
		sent: e.newTally(name, help, prometheus.Labels{"direction": "out"}, "method",
			"PUBLISH-ACCEPT", "PUBLISH-DENY", "STREAM-KILL", "ENCODE-START", "ENCODE-STOP", "HEARTBEAT", "other"),
		disconnects: e.newTally(e.role+"_peer_disconnects_total", "Control connections that ended, by reason.", nil, "reason",
			append(control.Reasons(), "other")...),
	}
}

func (c controlCounts) MessageReceived(method string)  { c.received.count(method) }
func (c controlCounts) MessageSent(method string)      { c.sent.count(method) }
func (c controlCounts) PeerDisconnected(reason string) { c.disconnects.count(reason) }

// tally counts by the values of one label. A value that it does not know counts as "other".
type tally map[string]*atomic.Int64

func (t tally) count(value string) {
	n := t[value]
	if n == nil {
		n = t["other"]
	}
	n.Add(1)
}

func (t tally) sumWithout(value string) (n int64) {
	for other, counter := range t {
		if other != value {
			n += counter.Load()
		}
	}
	return n
}

// newMetrics exposes the counts, and the state of the cluster as state finds it at each scrape.
func newMetrics(state func() clusterState) *metrics {
	m := &metrics{exporter: newExporter(programName)}
	m.publishes = m.newTally("coordinator_publish_requests_total", "Publish requests by how they were answered.", nil, "result",
		"accepted", "denied_key", "application_error", "no_answer", "busy", "no_encoder", "malformed", "draining", "stopping",
		"events_not_kept", "not_leading", "too_many", "peer_gone", "other")
	m.controlCounts = m.newControlCounts()
	m.eventAttempts = m.newTally("coordinator_event_attempts_total", "Requests that told the application of an event, by result.", nil, "result",
		"delivered", "refused", "unanswered", "other")
	m.gatewaysGone = m.newTally("coordinator_gateways_gone_total", "Gateways that are gone for good, with all that their peers had: those that have left, and those that were lost.", nil,
		"reason", "left", "lost")
	m.publicationsEnded = m.newTally("coordinator_publications_ended_total", "Publishers that were accepted and are not live any more, by why.", nil,
		"reason", slices.DeleteFunc(slices.Clone(endReasonNames[1:]), func(name string) bool { return name == moved.String() })...) // only streams are
	m.accepts = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "coordinator_publish_accept_duration_seconds",
		Help:    "Time from a publish request to its accept, of those that were accepted: the application's answer and the wait for a slot included.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
	})
	m.firstLives = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "coordinator_publish_first_live_duration_seconds",
		Help:    "Time from a publish request to the first HLS-LIVE of its stream: what a publisher waits until viewers can see it.",
		Buckets: []float64{.25, .5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60},
	})
	m.failoverGaps = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "coordinator_failover_gap_seconds",
		Help:    "Time from the loss of a live stream's encoder to the first HLS-LIVE of another one: what viewers miss.",
		Buckets: []float64{.25, .5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60},
	})
	m.discarded = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "coordinator_events_discarded_total",
		Help: "Undelivered events that an operator has given up.",
	})
	m.replacements = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "coordinator_stream_moves_total",
		Help: "Streams that went on at another encoder, by failover or by moving.",
	})
	m.verifications = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "coordinator_key_verification_duration_seconds",
		Help:    "Time that the application took to verify a key, retries included.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15},
	})
	m.deliveries = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "coordinator_event_delivery_duration_seconds",
		Help:    "Time of each request that told the application of an event.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
	m.registry.MustRegister(m.discarded, m.replacements, m.verifications, m.deliveries, m.accepts, m.firstLives, m.failoverGaps, newStateCollector(state))
	return m
}

// exposeLease tells of the election that decides which coordinator leads. It is called once, if there is one.
func (e exporter) exposeLease(status func() lease.Status) {
	gauge := func(name, help string, value func(lease.Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: e.role + name, Help: help}, func() float64 { return value(status()) })
	}
	one := func(is bool) float64 {
		if is {
			return 1
		}
		return 0
	}
	e.registry.MustRegister(
		gauge("_leader", "1 if this coordinator leads, 0 if it stands by.", func(s lease.Status) float64 { return one(s.Leads) }),
		gauge("_leader_sure", "1 if it leads beyond doubt: the database has answered lately.", func(s lease.Status) float64 { return one(s.Valid) }),
		gauge("_epoch", "Epoch of the leader that this coordinator knows of; it grows with each leader.", func(s lease.Status) float64 { return float64(s.Epoch) }),
		gauge("_database_answer_age_seconds", "Time since the database last said who leads.", func(s lease.Status) float64 { return s.AnswerAge.Seconds() }),
	)
	for result, count := range map[string]func(lease.Status) int64{
		"renewed":    func(s lease.Status) int64 { return s.Renewed },
		"unanswered": func(s lease.Status) int64 { return s.Unanswered },
	} {
		opts := prometheus.CounterOpts{Name: e.role + "_lease_renewals_total", Help: "Renewals of the lead, by result.", ConstLabels: prometheus.Labels{"result": result}}
		e.registry.MustRegister(prometheus.NewCounterFunc(opts, func() float64 { return float64(count(status())) }))
	}
}

// newTally exposes one counter for each value of label, from 0 on.
func (e exporter) newTally(name, help string, common prometheus.Labels, label string, values ...string) tally {
	t := tally{}
	for _, value := range values {
		n := new(atomic.Int64)
		t[value] = n
		labels := prometheus.Labels{label: value}
		for k, v := range common {
			labels[k] = v
		}
		opts := prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}
		e.registry.MustRegister(prometheus.NewCounterFunc(opts, func() float64 { return float64(n.Load()) }))
	}
	return t
}

func (e exporter) handler() http.HandlerFunc {
	return promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{}).ServeHTTP
}

// exposeBuild tells which program runs. It is called once.
func (e exporter) exposeBuild(build buildinfo.Info) {
	buildInfo := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        e.role + "_build_info",
		Help:        "Always 1; the labels tell which program runs.",
		ConstLabels: prometheus.Labels{"version": build.Version, "commit": build.Commit, "date": build.Date, "go_version": build.Go},
	})
	buildInfo.Set(1)
	e.registry.MustRegister(buildInfo)
}

// exposeCertificate is called at most once, if there is a certificate.
func (e exporter) exposeCertificate(notAfter func() time.Time) {
	e.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: e.role + "_tls_certificate_not_after_timestamp_seconds",
		Help: "When the certificate that is served expires, in seconds since 1970.",
	}, func() float64 { return float64(notAfter().Unix()) }))
}

// exposeLog is called once. dropped counts log lines that could not be written.
func (e exporter) exposeLog(dropped func() uint64) {
	e.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: e.role + "_log_lines_dropped_total",
		Help: "Log lines dropped because standard error was not read in time, or could not be written.",
	}, func() float64 { return float64(dropped()) }))
}

// keyVerified and eventAttempted are told by those who ask the application.

func (m *metrics) keyVerified(took time.Duration, refused bool) {
	m.verifications.Observe(took.Seconds())
	m.verified.Add(1)
	if refused {
		m.keysRefused.Add(1)
	}
}

func (m *metrics) gatewayGone(hasLeft bool) {
	if hasLeft {
		m.gatewaysGone.count("left")
	} else {
		m.gatewaysGone.count("lost")
	}
}

func (m *metrics) eventAttempted(result string, took time.Duration) {
	m.deliveries.Observe(took.Seconds())
	m.eventAttempts.count(result)
}

// clusterState is what an operator sees of one moment.
type clusterState struct {
	totals
	eventsPending int
	oldestEvent   time.Duration // age of the oldest of them
	outboxDamaged bool
	notReady      []string
	gathering     bool
	gateways      gatewayLinks
}

// gatewayLinks sums up the links of gateways.
type gatewayLinks struct {
	linked, absent int
	unacknowledged int // bytes, of the gateway that has most
}

// stateCollector turns the state of the cluster into gauges, all of one moment.
type stateCollector struct {
	state  func() clusterState
	gauges []stateGauge
}

type stateGauge struct {
	desc *prometheus.Desc
	read func(*clusterState) float64
}

func newStateCollector(state func() clusterState) *stateCollector {
	c := &stateCollector{state: state}
	add := func(name, help, label, value string, read func(*clusterState) float64) {
		var labels prometheus.Labels
		if label != "" {
			labels = prometheus.Labels{label: value}
		}
		c.gauges = append(c.gauges, stateGauge{prometheus.NewDesc(name, help, nil, labels), read})
	}
	const streams, streamsHelp = "coordinator_streams", "Streams. waiting: publishers without an encoder; ending: those of them that were told to end; live counts neither."
	add(streams, streamsHelp, "state", "live", func(s *clusterState) float64 { return float64(s.hasEncoder) })
	add(streams, streamsHelp, "state", "closing", func(s *clusterState) float64 { return float64(s.closing) })
	add(streams, streamsHelp, "state", "waiting", func(s *clusterState) float64 { return float64(s.waiting) })
	add(streams, streamsHelp, "state", "ending", func(s *clusterState) float64 { return float64(s.ending) })
	for _, state := range []string{encoderReady, encoderFull, encoderDraining, encoderSetAside} {
		add("coordinator_encoders", "Registered encoders, each in one state.", "state", state, func(s *clusterState) float64 { return float64(s.encoders[state]) })
	}
	add("coordinator_encoder_slots_used", "Encoder slots that are taken.", "", "", func(s *clusterState) float64 { return float64(s.slots.Load) })
	add("coordinator_encoder_slots_capacity", "Encoder slots that there are, +Inf if an encoder has no limit.", "", "", func(s *clusterState) float64 {
		if s.slots.Capacity < 0 {
			return math.Inf(1)
		}
		return float64(s.slots.Capacity)
	})
	add("coordinator_encoder_slots_headroom", "Free slots after the worst loss of one encoder, with its streams at the others; negative: so many streams would find none.", "", "",
		func(s *clusterState) float64 { return s.headroom })
	const servers, serversHelp = "coordinator_streaming_servers", "Connected streaming servers."
	add(servers, serversHelp, "type", "rtmp", func(s *clusterState) float64 { return float64(s.rtmpServers) })
	add(servers, serversHelp, "type", "ws", func(s *clusterState) float64 { return float64(s.wsServers) })
	add("coordinator_publish_requests_waiting", "Publish requests that wait for a slot.", "", "", func(s *clusterState) float64 { return float64(s.waitingRequests) })
	const gateways, gatewaysHelp = "coordinator_gateways", "Gateways that are known. absent: not linked, and not yet given up."
	add(gateways, gatewaysHelp, "state", "linked", func(s *clusterState) float64 { return float64(s.gateways.linked) })
	add(gateways, gatewaysHelp, "state", "absent", func(s *clusterState) float64 { return float64(s.gateways.absent) })
	const held, heldHelp = "coordinator_gateway_sessions", "Streaming servers and encoders whose connections gateways hold."
	add(held, heldHelp, "type", "rtmp", func(s *clusterState) float64 { return float64(s.atGateways.rtmpServers) })
	add(held, heldHelp, "type", "ws", func(s *clusterState) float64 { return float64(s.atGateways.wsServers) })
	add(held, heldHelp, "type", "hls", func(s *clusterState) float64 { return float64(s.atGateways.encoders) })
	add("coordinator_gateway_unacknowledged_bytes", "Memory of what was said to a gateway that has not acknowledged it, of the gateway that has most.", "", "",
		func(s *clusterState) float64 { return float64(s.gateways.unacknowledged) })
	add("coordinator_gathering", "1 after a start, until the gateways that are known have shown what they hold or are given up, else 0.", "", "",
		func(s *clusterState) float64 { return oneIf(s.gathering) })
	add("coordinator_events_pending", "Events that the application has not taken yet.", "", "", func(s *clusterState) float64 { return float64(s.eventsPending) })
	add("coordinator_event_oldest_pending_seconds", "Age of the oldest event that the application has not taken yet; 0 if there is none.", "", "",
		func(s *clusterState) float64 { return s.oldestEvent.Seconds() })
	add("coordinator_outbox_damaged", "1 if the outbox was found damaged, at the start or since, else 0.", "", "",
		func(s *clusterState) float64 { return oneIf(s.outboxDamaged) })
	add("coordinator_ready", "1 if new streams are taken, as /readyz says, else 0.", "", "",
		func(s *clusterState) float64 { return oneIf(len(s.notReady) == 0) })
	return c
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range c.gauges {
		ch <- g.desc
	}
}

func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	state := c.state()
	for _, g := range c.gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.read(&state))
	}
}

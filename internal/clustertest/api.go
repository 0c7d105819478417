package clustertest

import "time"

// Report is the answer to GET /commands/report.
type Report struct {
	ActiveStreams    []ActiveStream
	StreamingServers []Server
	Encoders         []Encoder
	WaitingRequests  int
}

// ActiveStream is a live stream.
type ActiveStream struct {
	Channel, StreamID     string
	StreamServer, Encoder uint64
}

// Server is a connected streaming server.
type Server struct {
	ID         uint64
	IP         string
	Port       int
	SSL        bool
	ServerType string
	Since      time.Time
	Streams    int
	Draining   bool
}

// Encoder is a registered encoder.
type Encoder struct {
	ID                         uint64
	Address                    string
	Capacity, Load, Serving    int
	Since                      time.Time
	Draining, Moving, SetAside bool
}

// Live maps channels to their stream IDs.
func (r Report) Live() map[string]string {
	live := map[string]string{}
	for _, s := range r.ActiveStreams {
		live[s.Channel] = s.StreamID
	}
	return live
}

// Overview is the answer to GET /commands/overview.
type Overview struct {
	Version          string
	Now, StartedAt   time.Time
	Streams          StreamTotals
	Slots            SlotTotals
	Encoders         EncoderTotals
	StreamingServers ServerTotals
	WaitingRequests  int
	Events           EventTotals
	KeyVerifications Rates
	Ready            bool
	NotReady         []string
	History          History
}

type (
	StreamTotals  struct{ Live, Closing, Waiting, Ending int }
	SlotTotals    struct{ Used, Capacity int }
	EncoderTotals struct{ Total, Draining, SetAside int }
	ServerTotals  struct{ RTMP, WS, Draining int }
	EventTotals   struct {
		Pending       int
		OldestSeconds float64
	}
	Rates   struct{ PerSecond, RefusedPerSecond float64 }
	History struct {
		StepSeconds        int
		Load, Capacity     []int
		Publishes, Denials []int64
		EventsPending      []int
	}
)

// StreamRow is a row of GET /commands/streams.
type StreamRow struct {
	Channel, StreamID, State string
	StreamServer, Encoder    uint64
	Since                    time.Time
	Announced                []string
}

// Pages of the lists.
type (
	StreamPage struct {
		Streams []StreamRow
		Matched int
		After   string
	}
	EncoderPage struct {
		Encoders []Encoder
		Matched  int
		After    string
	}
	ServerPage struct {
		Servers []Server
		Matched int
		After   string
	}
)

package clustertest

import (
	"strings"
	"time"
)

// Report is the answer to GET /commands/report.
type Report struct {
	ActiveStreams    []ActiveStream `json:"activeStreams"`
	StreamingServers []Server       `json:"streamingServers"`
	Encoders         []Encoder      `json:"encoders"`
	WaitingRequests  int            `json:"waitingRequests"`
}

// ActiveStream is a live stream.
type ActiveStream struct {
	Channel      string    `json:"channel"`
	StreamID     string    `json:"streamId"`
	StreamServer uint64    `json:"streamServer"`
	Encoder      uint64    `json:"encoder"`
	Since        time.Time `json:"since"`
	Passthrough  string    `json:"passthrough"`
	Announced    []Output  `json:"announced"`
}

// ByChannel is an order for the streams of a report, which has none.
func ByChannel(a, b ActiveStream) int { return strings.Compare(a.Channel, b.Channel) }

// Server is a connected streaming server.
type Server struct {
	ID         uint64    `json:"id"`
	IP         string    `json:"ip"`
	Port       int       `json:"port"`
	SSL        bool      `json:"ssl"`
	ServerType string    `json:"serverType"`
	Since      time.Time `json:"since"`
	Streams    int       `json:"streams"`
	Draining   bool      `json:"draining"`
	Gateway    string    `json:"gateway"`
}

// Encoder is a registered encoder.
type Encoder struct {
	ID       uint64    `json:"id"`
	Address  string    `json:"address"`
	Capacity int       `json:"capacity"`
	Load     int       `json:"load"`
	Serving  int       `json:"serving"`
	Since    time.Time `json:"since"`
	Draining bool      `json:"draining"`
	Moving   bool      `json:"moving"`
	SetAside bool      `json:"setAside"`
	Gateway  string    `json:"gateway"`
}

// Gateway is a row of GET /commands/gateways.
type Gateway struct {
	ID                  string    `json:"id"`
	Address             string    `json:"address"`
	Linked              bool      `json:"linked"`
	Since               time.Time `json:"since"`
	Version             string    `json:"version"`
	StreamingServers    int       `json:"streamingServers"`
	Encoders            int       `json:"encoders"`
	UnacknowledgedBytes int       `json:"unacknowledgedBytes"`
	FramesIn            int       `json:"framesIn"`
	FramesOut           int       `json:"framesOut"`
	BytesIn             int       `json:"bytesIn"`
	BytesOut            int       `json:"bytesOut"`
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
	Version          string        `json:"version"`
	Now              time.Time     `json:"now"`
	StartedAt        time.Time     `json:"startedAt"`
	Epoch            uint64        `json:"epoch"`
	Streams          StreamTotals  `json:"streams"`
	Slots            SlotTotals    `json:"slots"`
	Encoders         EncoderTotals `json:"encoders"`
	StreamingServers ServerTotals  `json:"streamingServers"`
	Gateways         GatewayTotals `json:"gateways"`
	WaitingRequests  int           `json:"waitingRequests"`
	Events           EventTotals   `json:"events"`
	KeyVerifications Rates         `json:"keyVerifications"`
	Ready            bool          `json:"ready"`
	NotReady         []string      `json:"notReady"`
	History          History       `json:"history"`
}

type (
	StreamTotals struct {
		Live    int `json:"live"`
		Closing int `json:"closing"`
		Waiting int `json:"waiting"`
		Ending  int `json:"ending"`
	}
	SlotTotals struct {
		Used     int `json:"used"`
		Capacity int `json:"capacity"`
	}
	EncoderTotals struct {
		Total    int `json:"total"`
		Draining int `json:"draining"`
		SetAside int `json:"setAside"`
	}
	ServerTotals struct {
		RTMP     int `json:"rtmp"`
		WS       int `json:"ws"`
		Draining int `json:"draining"`
	}
	GatewayTotals struct {
		Total  int `json:"total"`
		Absent int `json:"absent"`
	}
	EventTotals struct {
		Pending       int     `json:"pending"`
		OldestSeconds float64 `json:"oldestSeconds"`
	}
	Rates struct {
		PerSecond        float64 `json:"perSecond"`
		RefusedPerSecond float64 `json:"refusedPerSecond"`
	}
	History struct {
		StepSeconds   int     `json:"stepSeconds"`
		Load          []int   `json:"load"`
		Capacity      []int   `json:"capacity"`
		Publishes     []int64 `json:"publishes"`
		Denials       []int64 `json:"denials"`
		EventsPending []int   `json:"eventsPending"`
	}
)

// StreamRow is a row of GET /commands/streams.
type StreamRow struct {
	Channel      string    `json:"channel"`
	StreamID     string    `json:"streamId"`
	State        string    `json:"state"`
	StreamServer uint64    `json:"streamServer"`
	Encoder      uint64    `json:"encoder"`
	Since        time.Time `json:"since"`
	Passthrough  string    `json:"passthrough"`
	Announced    []Output  `json:"announced"`
}

// Output is one of a stream that was announced.
type Output struct {
	StreamType string `json:"streamType"`
	Resolution string `json:"resolution"`
	IndexFile  string `json:"indexFile"`
	StartTime  string `json:"startTime"`
}

// Entry is one of GET /commands/timeline.
type Entry struct {
	ID           uint64    `json:"id"`
	At           time.Time `json:"at"`
	Kind         string    `json:"kind"`
	Code         string    `json:"code"`
	Reason       string    `json:"reason"`
	Channel      string    `json:"channel"`
	StreamID     string    `json:"streamId"`
	StreamServer uint64    `json:"streamServer"`
	Encoder      uint64    `json:"encoder"`
	Status       int       `json:"status"`
	Tries        int       `json:"tries"`
	Passthrough  string    `json:"passthrough"`
}

// EventRow is a row of GET /commands/events.
type EventRow struct {
	ID         string    `json:"id"`
	Channel    string    `json:"channel"`
	StreamID   string    `json:"streamId"`
	Type       string    `json:"type"`
	StreamType string    `json:"streamType"`
	Resolution string    `json:"resolution"`
	Since      time.Time `json:"since"`
	State      string    `json:"state"`
	Tries      int       `json:"tries"`
	LastAnswer string    `json:"lastAnswer"`
	NextTry    string    `json:"nextTry"`
}

// Pages of the lists.
type (
	StreamPage struct {
		Streams []StreamRow `json:"streams"`
		Matched int         `json:"matched"`
		After   string      `json:"after"`
	}
	EncoderPage struct {
		Encoders []Encoder `json:"encoders"`
		Matched  int       `json:"matched"`
		After    string    `json:"after"`
	}
	ServerPage struct {
		Servers []Server `json:"servers"`
		Matched int      `json:"matched"`
		After   string   `json:"after"`
	}
	EntryPage struct {
		Entries []Entry `json:"entries"`
		Matched int     `json:"matched"`
		After   string  `json:"after"`
	}
	EventPage struct {
		Events []EventRow `json:"events"`
		After  string     `json:"after"`
	}
	GatewayPage struct {
		Gateways []Gateway `json:"gateways"`
		Matched  int       `json:"matched"`
		After    string    `json:"after"`
	}
)

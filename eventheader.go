package main

// What the application reads of an event: its header fields.

import (
	"net/http"
	"strconv"
)

const eventTimeStyle = "2006-01-02T15:04:05.000Z07:00"

// eventHeader is what the application reads. The event ID is the same whenever the event is sent.
func eventHeader(ev event) http.Header {
	const most = 12
	header, values := make(http.Header, most), make([]string, 0, most) // one array for the values of all
	set := func(canonicalName, value string) {
		values = append(values, headerValue(value))
		header[canonicalName] = values[len(values)-1 : len(values) : len(values)]
	}
	set("X-Streaming-Channel", ev.channel)
	set("X-Streaming-Id", ev.streamID)
	set("X-Event-Id", ev.streamID+"-"+strconv.FormatUint(ev.seq, 10))
	set("X-Event-Time", ev.at.UTC().Format(eventTimeStyle))
	if ev.previous != "" {
		set("X-Previous-Streaming-Id", ev.previous)
	}
	if ev.closed {
		set("X-Event-Type", "stream-closed")
		return header
	}
	set("X-Event-Type", "stream-available")
	set("X-Stream-Type", ev.streamType)
	set("X-Resolution", ev.resolution)
	set("X-Index-File", ev.indexFile)
	if ev.startTime != "" {
		set("X-Start-Time", ev.startTime)
	}
	return header
}

package main

// What the application reads of an event: its header fields.

import (
	"net/http"
	"strconv"
)

const eventTimeStyle = "2006-01-02T15:04:05.000Z07:00"

// eventHeader is what the application reads. The event ID is the same whenever the event is sent.
func eventHeader(ev event) http.Header {
	header := make(http.Header, 12)
	set := func(name, value string) { header[http.CanonicalHeaderKey(name)] = []string{headerValue(value)} }
	set("x-streaming-channel", ev.channel)
	set("x-streaming-id", ev.streamID)
	set("x-event-id", ev.streamID+"-"+strconv.FormatUint(ev.seq, 10))
	set("x-event-time", ev.at.UTC().Format(eventTimeStyle))
	if ev.previous != "" {
		set("x-previous-streaming-id", ev.previous)
	}
	if ev.closed {
		set("x-event-type", "stream-closed")
		return header
	}
	set("x-event-type", "stream-available")
	set("x-stream-type", ev.streamType)
	set("x-resolution", ev.resolution)
	set("x-index-file", ev.indexFile)
	if ev.startTime != "" {
		set("x-start-time", ev.startTime)
	}
	return header
}

// Package httpjson answers requests in JSON.
package httpjson

import (
	"encoding/json"
	"net/http"
)

// Write answers with a value that can always be encoded. That the client may be gone is none of our concern.
func Write(w http.ResponseWriter, status int, value any) {
	Begin(w, status)
	_ = json.NewEncoder(w).Encode(value)
}

// Begin writes status and headers of an answer whose body the caller writes.
func Begin(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
}

// Code names a kind of error for programs. What it names never changes; its words may.
type Code string

const (
	MalformedHeader    Code = "malformed_header" // it is missing, given twice, or can't be read
	MalformedChannel   Code = "malformed_channel"
	MalformedStreamID  Code = "malformed_stream_id"
	MalformedQuery     Code = "malformed_query"     // of a list
	MalformedHandshake Code = "malformed_handshake" // of a peer: its address can't be read
	NotWebSocket       Code = "not_websocket"       // no WebSocket handshake, or one that can't be read
	Unauthorized       Code = "unauthorized"
	TokenRefused       Code = "token_refused"  // of a peer or a gateway
	OriginRefused      Code = "origin_refused" // the page of another host asks
	UnknownPath        Code = "unknown_path"
	UnknownSession     Code = "unknown_session"
	UnknownEvent       Code = "unknown_event"      // it was taken or discarded, or there never was one
	EventNotFirst      Code = "event_not_first"    // others of its publication come before it
	EventInFlight      Code = "event_in_flight"    // it is being sent; ask again
	EventsUnavailable  Code = "events_unavailable" // they can't be read or written now; ask again
	MethodNotAllowed   Code = "method_not_allowed"
	Restoring          Code = "restoring"      // the cluster is not there yet after a start; ask again
	Standby            Code = "standby"        // another coordinator leads; ask there
	GatewayAbsent      Code = "gateway_absent" // the gateway that has to know of a command is not linked; ask again
	Stopping           Code = "stopping"
	TooManyConnections Code = "too_many_connections"
	NoCoordinator      Code = "no_coordinator"   // behind a gateway; ask again
	TooManyWaiting     Code = "too_many_waiting" // behind a gateway without a coordinator; ask again
	NoAnswer           Code = "no_answer"        // behind a gateway: what was asked may have been done
)

// Error answers with {"error": reason, "code": code}.
func Error(w http.ResponseWriter, status int, code Code, reason string) {
	Write(w, status, struct {
		Error string `json:"error"`
		Code  Code   `json:"code"`
	}{reason, code})
}

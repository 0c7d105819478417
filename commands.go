package main

// The commands API: what the application and the operator ask and order. Decode, call, encode; nothing else.

import (
	"bufio"
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// commands are the handlers of the API. They are called behind the authorization of routes.go.
type commands struct {
	coordinator *coordinator
}

func (a *commands) capacity(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.coordinator.registry.capacity())
}

// close answers 200 also when there is nothing to close, so that the application can repeat itself.
func (a *commands) close(w http.ResponseWriter, r *http.Request) {
	channel, ok := requiredHeader(w, r, "x-streaming-channel")
	if !ok {
		return
	}
	streamID, ok := requiredHeader(w, r, "x-streaming-id")
	if !ok {
		return
	}
	if err := a.coordinator.closeStream(channel, streamID); err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, struct{}{})
}

// report writes the streams itself: there may be 100,000 of them, and all they hold is numbers and names that need no
// escaping. They come in no particular order.
func (a *commands) report(w http.ResponseWriter, _ *http.Request) {
	report := a.coordinator.registry.report(time.Now())
	slices.SortFunc(report.StreamingServers, func(x, y serverReport) int { return cmp.Compare(x.ID, y.ID) })
	slices.SortFunc(report.Encoders, func(x, y encoderReport) int { return cmp.Compare(x.ID, y.ID) })
	rest, _ := json.Marshal(report) // of numbers, words and times of this century: no error
	const before = `{"activeStreams":[`
	setJSON(w, http.StatusOK)
	out := bufio.NewWriterSize(w, 128<<10)
	out.WriteString(before)
	first := true
	a.coordinator.registry.liveStreams(func(streams []streamReport) {
		for _, s := range streams {
			if !first {
				out.WriteByte(',')
			}
			first = false
			out.Write(s.appendJSON(out.AvailableBuffer()))
		}
	})
	out.Write(rest[len(before):])
	out.WriteByte('\n')
	out.Flush()
}

func (s streamReport) appendJSON(b []byte) []byte {
	b = append(append(append(b, `{"channel":"`...), s.Channel...), `","streamId":"`...)
	b = strconv.AppendUint(append(append(b, s.StreamID...), `","streamServer":`...), s.StreamServer, 10)
	b = strconv.AppendUint(append(b, `,"encoder":`...), s.Encoder, 10)
	return append(b, '}')
}

// requiredHeader returns the one value of a header; a missing, empty or repeated one is answered with 400.
func requiredHeader(w http.ResponseWriter, r *http.Request, name string) (string, bool) {
	values := r.Header.Values(name)
	if len(values) != 1 || values[0] == "" {
		writeError(w, http.StatusBadRequest, "header "+name+" must be given once")
		return "", false
	}
	return values[0], true
}

// writeJSON answers with a value that can always be encoded. That the client may be gone is none of our concern.
func writeJSON(w http.ResponseWriter, status int, value any) {
	setJSON(w, status)
	_ = json.NewEncoder(w).Encode(value)
}

func setJSON(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
}

func writeError(w http.ResponseWriter, status int, reason string) {
	writeJSON(w, status, struct {
		Error string `json:"error"`
	}{reason})
}

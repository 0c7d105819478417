package main

// The commands API: what the application and the operator ask and order. Decode, call, encode; nothing else.

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"coordinator/internal/httpjson"
)

// commands are the handlers of the API. Each of them is called once the caller has shown its credentials (routes.go).
type commands struct {
	coordinator *coordinator
}

// whenUp has a request wait until the cluster is there, for commandPatience at most.
func (a *commands) whenUp(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !a.coordinator.awaitUp(r.Context(), commandPatience) {
			unavailable(w, httpjson.Restoring, errRestoring)
			return
		}
		h(w, r)
	}
}

// unavailable answers what may be asked again soon.
func unavailable(w http.ResponseWriter, code httpjson.Code, reason error) {
	w.Header().Set("Retry-After", "1")
	httpjson.Error(w, http.StatusServiceUnavailable, code, reason.Error())
}

func (a *commands) capacity(w http.ResponseWriter, _ *http.Request) {
	httpjson.Write(w, http.StatusOK, a.coordinator.registry.capacity())
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
	by := errByApplication
	if r.Header.Get("x-requested-by") == "dashboard" {
		by = errByOperator
	}
	switch err := a.coordinator.killPublisher(channel, streamID, by); err {
	case nil:
		httpjson.Write(w, http.StatusOK, struct{}{})
	case errNotPassedOn:
		unavailable(w, httpjson.GatewayAbsent, err)
	case errBadChannel:
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedChannel, err.Error())
	default:
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedStreamID, err.Error())
	}
}

// report writes streams and streaming servers itself: there may be 100,000 and 10,000 of them, and all they hold is
// numbers, times and names, few of which need escaping. Streams come in no particular order.
func (a *commands) report(w http.ResponseWriter, _ *http.Request) {
	report := a.coordinator.registry.report(time.Now())
	slices.SortFunc(report.StreamingServers, func(x, y serverReport) int { return cmp.Compare(x.ID, y.ID) })
	slices.SortFunc(report.Encoders, func(x, y encoderReport) int { return cmp.Compare(x.ID, y.ID) })
	encoders, _ := json.Marshal(report.Encoders) // of numbers and times of this century: no error
	httpjson.Begin(w, http.StatusOK)
	out := bufio.NewWriterSize(w, 128<<10)
	out.WriteString(`{"activeStreams":[`)
	separator := ""
	a.coordinator.registry.liveStreams(func(streams []streamReport) {
		for i := range streams {
			out.WriteString(separator)
			out.Write(streams[i].appendJSON(out.AvailableBuffer()))
			separator = ","
		}
	})
	out.WriteString(`],"streamingServers":[`)
	separator = ""
	for i := range report.StreamingServers {
		out.WriteString(separator)
		out.Write(report.StreamingServers[i].appendJSON(out.AvailableBuffer()))
		separator = ","
	}
	fmt.Fprintf(out, `],"encoders":%s,"waitingRequests":%d}`+"\n", encoders, report.WaitingRequests)
	out.Flush()
}

func (s *streamReport) appendJSON(b []byte) []byte {
	b = append(append(append(b, `{"channel":"`...), s.Channel...), `","streamId":"`...)
	b = strconv.AppendUint(append(append(b, s.StreamID...), `","streamServer":`...), s.StreamServer, 10)
	b = strconv.AppendUint(append(b, `,"encoder":`...), s.Encoder, 10)
	b = s.Since.AppendFormat(append(b, `,"since":"`...), time.RFC3339Nano)
	b = appendText(append(b, `","passthrough":`...), s.Passthrough)
	b = append(b, `,"announced":[`...)
	for i, h := range s.outputs { // as describeAnnounced has them, without a copy of each
		if i > 0 {
			b = append(b, ',')
		}
		o := h.Value()
		b = appendText(append(b, `{"streamType":`...), o.streamType)
		b = appendText(append(b, `,"resolution":`...), o.resolution)
		b = appendIndexFile(append(b, `,"indexFile":`...), o.indexFile, s.Channel, s.StreamID)
		b = append(appendText(append(b, `,"startTime":`...), o.startTime), '}')
	}
	return append(b, "]}"...)
}

// appendIndexFile appends an index file, by its form, as a JSON string.
func appendIndexFile(b []byte, form, channel, streamID string) []byte {
	begin := len(b)
	b = append(b, '"')
	for i := 0; i < len(form); i++ {
		switch c := form[i]; {
		case c == itsChannel[0]:
			b = append(b, channel...)
		case c == itsID[0]:
			b = append(b, streamID...)
		case isPlain(c):
			b = append(b, c)
		default:
			return appendText(b[:begin], indexFileOf(form, channel, streamID))
		}
	}
	return append(b, '"')
}

// isPlain tells whether a byte stands for itself in a JSON string, as encoding/json writes it.
func isPlain(c byte) bool {
	return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
}

// appendText appends text as a JSON string.
func appendText(b []byte, text string) []byte {
	for _, c := range []byte(text) {
		if !isPlain(c) {
			quoted, _ := json.Marshal(text) // of a string: no error
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}

func (s *serverReport) appendJSON(b []byte) []byte {
	b = strconv.AppendUint(append(b, `{"id":`...), s.ID, 10)
	b = append(append(append(b, `,"ip":"`...), s.IP...), '"')
	b = strconv.AppendInt(append(b, `,"port":`...), int64(s.Port), 10)
	b = strconv.AppendBool(append(b, `,"ssl":`...), s.SSL)
	b = append(append(append(b, `,"serverType":"`...), s.ServerType...), '"')
	b = append(s.Since.AppendFormat(append(b, `,"since":"`...), time.RFC3339Nano), '"')
	b = strconv.AppendInt(append(b, `,"streams":`...), int64(s.Streams), 10)
	b = strconv.AppendBool(append(b, `,"draining":`...), s.Draining)
	return append(append(append(b, `,"gateway":"`...), s.Gateway...), `"}`...)
}

// requiredHeader returns the one value of a header; a missing, empty or repeated one is answered with 400.
func requiredHeader(w http.ResponseWriter, r *http.Request, name string) (string, bool) {
	values := r.Header.Values(name)
	if len(values) != 1 || values[0] == "" {
		httpjson.Error(w, http.StatusBadRequest, httpjson.MalformedHeader, "header "+name+" must be given once")
		return "", false
	}
	return values[0], true
}

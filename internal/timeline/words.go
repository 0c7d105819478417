package timeline

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The codes are a public contract: added, never renamed. Those of Denied are the results of coordinator_publish_requests_total.
const (
	Done             = "done"              // Asked, Accepted, Announced, Closed
	Allowed          = "allowed"           // Verified
	DeniedKey        = "denied_key"        // Verified, Denied
	ApplicationError = "application_error" // Verified, Denied
	NoAnswer         = "no_answer"         // Verified, Denied, Event
	PeerGone         = "peer_gone"         // Verified, Denied
	Busy             = "busy"              // Denied
	NoEncoder        = "no_encoder"        // Denied, Killed, Waiting
	GatewayAbsent    = "gateway_absent"    // Waiting
	Failover         = "failover"          // Moved
	Drained          = "drained"           // Moved
	ByApplication    = "by_application"    // Killed
	ByOperator       = "by_operator"       // Killed
	EncoderFailed    = "encoder_failed"    // Killed, Closed
	EncoderGone      = "encoder_gone"      // Killed, Closed
	EncodersLost     = "encoders_lost"     // Killed
	NeverStarted     = "never_started"     // Killed
	ChannelTaken     = "channel_taken"     // Killed
	TakenOver        = "taken_over"        // Killed
	PublisherEnded   = "publisher_ended"   // Ended
	ServerGone       = "server_gone"       // Ended
	KillIgnored      = "kill_ignored"      // Ended
	AcceptedLate     = "accepted_late"     // Ended
	Taken            = "taken"             // Event
	Refused          = "refused"           // Event
	Other            = "other"             // Denied, Killed
)

func codeOfEvent(status int) string {
	switch status {
	case 0:
		return NoAnswer
	case 200:
		return Taken
	}
	return Refused
}

// Reason says in words why it is so.
func (e *Entry) Reason() string {
	switch e.Kind {
	case Asked:
		return e.asked()
	case Verified:
		return e.verified()
	case Denied:
		return e.denied()
	case Accepted:
		return "publisher accepted" + given("; the application's words: ", e.Text)
	case Waiting:
		return e.waiting()
	case Started:
		return e.started()
	case Announced:
		return "the encoder announced " + e.Text
	case Moved:
		return e.moved()
	case Killed:
		return e.killed()
	case Ended:
		return e.ended()
	case Closed:
		return e.closed()
	case Event:
		return e.event()
	case Discarded:
		return e.aboutEvent() + " was discarded on request: the application will never hear of it"
	}
	return ""
}

func (e *Entry) asked() string {
	who := "a publisher"
	if e.Text != "" {
		who += " at " + e.Text
	}
	return who + " asked to publish" + given(" on streaming server ", e.Address)
}

// given returns a value behind words, or nothing if there is no value.
func given(words, value string) string {
	if value == "" {
		return ""
	}
	return words + value
}

func (e *Entry) verified() string {
	in := " after " + e.Took.Round(time.Millisecond).String() + e.tries()
	switch {
	case e.Code == PeerGone:
		return "the streaming server was gone before the application answered," + in
	case e.Code == NoAnswer:
		return "the application did not answer: given up" + in
	case e.Status == 0 && e.Code == ApplicationError:
		return "the application's answer could not be read," + in
	}
	return e.answer() + in
}

func (e *Entry) tries() string {
	if e.Tries < 2 {
		return ""
	}
	return fmt.Sprintf(", at try %d", e.Tries)
}

// answer says what a status means: whoever wrote the application may take 204 for a yes.
func (e *Entry) answer() string {
	words := "the application answered " + strconv.Itoa(e.Status)
	switch {
	case e.Code == ApplicationError:
		words += ": an error of its own, not the key's"
	case e.Status/100 == 2 && e.Status != 200:
		words += ": only 200 counts"
	case e.Status/100 == 3:
		words += ": only 200 counts, and redirects are not followed"
	}
	return words
}

func (e *Entry) denied() string {
	switch {
	case (e.Code == DeniedKey || e.Code == ApplicationError) && e.Status != 0:
		return e.answer()
	case e.Code == Busy && !e.Since.IsZero():
		return fmt.Sprintf("channel is live on streaming server %s since %s", e.Address, e.Since.Format("2006-01-02 15:04:05 MST")) + strings.TrimPrefix(e.Text, "channel is live already")
	case e.Code == NoEncoder && e.Encoders > 0:
		return "no encoder had a free slot: " + e.slots()
	case e.Code == NoEncoder && e.Encoders == 0:
		return "no encoder was in service"
	}
	return e.Text
}

func (e *Entry) waiting() string {
	waits := "waiting for a slot: "
	if e.Stream != "" {
		waits = "its encoder was lost; waiting for a slot: "
	}
	switch {
	case e.Code == GatewayAbsent:
		return waits + "the gateway that has its server, or an encoder with a free slot, is absent"
	case e.Encoders > 0:
		return waits + "no encoder has a free one, " + e.slots()
	case e.Encoders < 0:
		return waits + "no encoder has a free one but the one that it was lost on"
	}
	return waits + "no encoder is in service"
}

// passthrough is of Accepted only.
func (e *Entry) passthrough() string {
	if e.Kind == Accepted {
		return e.Text
	}
	return ""
}

func (e *Entry) slots() string {
	on := fmt.Sprintf("%d encoders", e.Encoders)
	if e.Encoders == 1 {
		on = "1 encoder"
	}
	if e.Capacity < 0 {
		return fmt.Sprintf("%d slots taken on %s", e.Used, on)
	}
	return fmt.Sprintf("%d of %d slots taken on %s", e.Used, e.Capacity, on)
}

func (e *Entry) started() string {
	rules := map[string]string{"least_load": "the fewest slots taken", "least_share": "the smallest share of its slots taken", "pack": "the most slots taken"}
	words := fmt.Sprintf("encoder %d at %s was told to start: ", e.Encoder, e.Address)
	if e.Encoders == 1 {
		words += "the only one that could take it"
	} else {
		words += fmt.Sprintf("of %d that could take it, PLACEMENT chose this one (%s)", e.Encoders, rules[e.Code]) + given(", with another one passed over: ", e.Text)
	}
	if e.Capacity < 0 {
		return words + fmt.Sprintf("; %d of its slots are taken now", e.Used)
	}
	return words + fmt.Sprintf("; %d of its %d slots are taken now", e.Used, e.Capacity)
}

func (e *Entry) moved() string {
	if e.Code == Failover {
		return "its encoder was lost: the channel goes on under this stream ID; the one before was " + e.Text
	}
	return "its encoder was drained: the channel goes on under this stream ID; the one before was " + e.Text
}

func (e *Entry) killed() string {
	switch e.Code {
	case ByApplication:
		return "the application closed it, by POST /commands/close"
	case ByOperator:
		return "an operator closed it in the dashboard"
	}
	return "the coordinator ended the publisher: " + e.Text
}

func (e *Entry) ended() string {
	switch e.Code {
	case ServerGone:
		return "the streaming server was gone, and the publisher with it"
	case KillIgnored:
		return "the streaming server was told to end the publisher, and did not say within 30 s that it had"
	case AcceptedLate:
		return "the publisher was accepted too late: its gateway had denied the request already"
	}
	return "the streaming server said that the publisher has ended"
}

func (e *Entry) closed() string {
	words := "the encoder closed the stream"
	switch e.Code {
	case EncoderGone:
		return "the encoder was gone, and the stream with it"
	case EncoderFailed:
		words = "the encoder closed the stream by itself"
	}
	return words + given(": ", e.Text)
}

func (e *Entry) aboutEvent() string {
	switch {
	case e.Event == OtherEvent || e.Event == EventOfNobody:
		return e.Text
	case e.Text == "":
		return "stream-closed"
	}
	return "stream-available (" + e.Text + ")"
}

func (e *Entry) event() string {
	what := e.aboutEvent()
	took := " after " + e.Took.Round(time.Millisecond).String() + e.tries()
	switch e.Code {
	case Taken:
		return "the application took " + what + took
	case NoAnswer:
		return "no answer from the application to " + what + "," + took + "; it is sent again"
	}
	return what + " was not taken: " + e.answer() + took + "; it is sent again"
}

package link

import (
	"bytes"
	"testing"

	"coordinator/internal/tagged"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

func TestFramesComeOutAsTheyWentIn(t *testing.T) {
	t.Parallel()
	frames := []Frame{
		With(KindHello, 0, &Hello{Gateway: "g", Store: "s", Term: "t", Received: 1 << 40, Epoch: 3, Numbers: 1<<53 - 1, Nonce: []byte{0, 1}, ControlMAC: []byte{2}, Oldest: 1, Newest: 2, Version: "1.0"}),
		With(KindAttach, 7, &Attach{Kind: "RTMP", Remote: "[::1]:5", IP: "10.0.0.1", Port: 65535, SSL: true, Since: -5, ID: 9, Memos: []Memo{{"s", []byte("x")}, {"p1", nil}}, FirstKept: 3}),
		{Kind: KindSynced, Number: 12},
		With(KindSay, 1<<63, &Say{Items: []Item{{Text: []byte("METHOD\n\n"), Answers: 5, Memos: []Memo{{"o1", []byte{0}}}}}}),
	}
	frames[1].Number = 11
	var wire []byte
	for _, f := range frames {
		wire = f.Append(wire)
	}
	for _, want := range frames {
		var f Frame
		var err error
		if f, wire, err = Next(wire); err != nil {
			t.Fatal(err)
		}
		if cap(f.Payload) > len(f.Payload) {
			t.Errorf("%v: whoever appends to its payload writes into the next frame", f.Kind)
		}
		if diff := cmp.Diff(want.Payload, f.Payload, cmp.Transformer("nil", func(b []byte) string { return string(b) })); diff != "" || f.Kind != want.Kind || f.Number != want.Number || f.Session != want.Session {
			t.Errorf("got %v, want %v", f, want)
		}
	}
	if len(wire) > 0 {
		t.Errorf("%d bytes are left", len(wire))
	}
	var attach Attach
	if err := frames[1].Read(&attach); err != nil {
		t.Fatal(err)
	}
	want := Attach{Kind: "RTMP", Remote: "[::1]:5", IP: "10.0.0.1", Port: 65535, SSL: true, Since: -5, ID: 9, Memos: []Memo{{"s", []byte("x")}, {Name: "p1"}}, FirstKept: 3}
	if diff := cmp.Diff(want, attach); diff != "" {
		t.Error(diff)
	}
}

func TestFrameThatIsCutOffIsAnError(t *testing.T) {
	t.Parallel()
	whole := With(KindAttached, 300, &Attached{ID: 1}).Append(nil)
	for n := range whole {
		if _, _, err := Next(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken for a frame", n, len(whole))
		}
	}
	if _, _, err := Next([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}); err != errTooLong {
		t.Errorf("a frame of 4 GiB: %v", err)
	}
}

// newer is ATTACHED of a later version.
type newer struct {
	Attached
	More   string
	Number uint64
	Fixed  []byte
}

func (p *newer) Fields(c *tagged.Coder) {
	p.Attached.Fields(c)
	c.String(100, &p.More)
	tagged.Uint(c, 101, &p.Number)
	c.Bytes(102, &p.Fixed)
}

func TestVersionsReadWhatTheOtherWrites(t *testing.T) {
	t.Parallel()
	f := With(KindAttached, 1, &newer{Attached{ID: 5}, "more", 7, []byte("x")})
	f.Payload = protowire.AppendFixed64(protowire.AppendTag(f.Payload, 103, protowire.Fixed64Type), 1)
	var old Attached
	if err := f.Read(&old); err != nil || old.ID != 5 {
		t.Errorf("the older version reads %+v, %v", old, err)
	}
	var later newer
	if err := With(KindAttached, 1, &Attached{ID: 6}).Read(&later); err != nil || later.ID != 6 || later.More != "" {
		t.Errorf("the newer version reads %+v, %v", later, err)
	}
	if _, _, err := Next(Frame{Kind: 200}.Append(nil)); err != nil {
		t.Errorf("a kind of a later version: %v", err)
	}
}

func TestFieldOfAnotherKindOrRangeIsAnError(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string][]byte{
		"text for a number":   protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "x"),
		"number for a text":   protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 1),
		"port above 32 bits":  protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 1<<32),
		"number for a memo":   protowire.AppendVarint(protowire.AppendTag(nil, 8, protowire.VarintType), 1),
		"memo that is cut":    protowire.AppendBytes(protowire.AppendTag(nil, 8, protowire.BytesType), []byte{0x0a, 5}),
		"tag without a field": {0x08},
	} {
		var a Attach
		if name == "text for a number" {
			payload = protowire.AppendString(protowire.AppendTag(nil, 7, protowire.BytesType), "x")
		}
		if err := (Frame{Kind: KindAttach, Payload: payload}).Read(&a); err == nil {
			t.Errorf("%s is taken as %+v", name, a)
		}
	}
}

// payloads are empty ones of all kinds.
func payloads() []tagged.Message {
	return []tagged.Message{&Hello{}, &Welcome{}, &Refuse{}, &Attach{}, &Attached{}, &Reason{}, &Message{}, &Say{}, &Item{}, &Done{}, &Count{}, &Gone{}}
}

// Whatever comes: it is taken for frames that come out the same when they are written again, or it is an error.
func FuzzFrames(f *testing.F) {
	f.Add(With(KindHello, 0, &Hello{Gateway: "g", Nonce: []byte("n"), Newest: 1}).Append(nil))
	f.Add(With(KindAttach, 1, &Attach{Kind: "HLS", Memos: []Memo{{"s", []byte("v")}}}).Append(With(KindSay, 1, &Say{Items: []Item{{Text: []byte("x")}}}).Append(nil)))
	f.Add([]byte{3, 1, 2, 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		for range 20 {
			frame, rest, err := Next(b)
			if err != nil {
				return
			}
			again, left, err := Next(frame.Append(nil))
			if err != nil || len(left) > 0 || again.Kind != frame.Kind || again.Number != frame.Number || again.Session != frame.Session || !bytes.Equal(again.Payload, frame.Payload) {
				t.Fatalf("%v comes out as %v, %v", frame, again, err)
			}
			_ = frame.Kind.String()
			fresh := payloads()
			for i, payload := range payloads() {
				if frame.Read(payload) != nil {
					continue
				}
				written := tagged.Append(nil, payload)
				if err := tagged.Parse(written, fresh[i]); err != nil {
					t.Fatalf("%T that was read can't be read again: %v", payload, err)
				}
				if !bytes.Equal(tagged.Append(nil, fresh[i]), written) {
					t.Fatalf("%+v comes out as %+v", payload, fresh[i])
				}
			}
			b = rest
		}
	})
}

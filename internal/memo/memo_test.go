package memo

import (
	"bytes"
	"testing"

	"coordinator/internal/tagged"

	"github.com/google/go-cmp/cmp"
)

// examples are memos with every field set, as long as those of real streams.
func examples() []tagged.Message {
	const id = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return []tagged.Message{
		&Session{Kept: true, Draining: true, Moving: true, Capacity: -1},
		&Publication{
			Number: 1 << 50, Channel: "channel-of-somebody", Key: "5f4dcc3b5aa765d61d8327deb882cf99", PublisherID: id, Resolutions: "ORIGINAL,1280x720-30~2500,640x360",
			Record: "True", Previews: "256x144,3", Since: 1_700_000_000_000_000_000, ID: id[1:] + "2", Previous: id, Last: 3,
			Current: &Place{Ordinal: 2, Encoder: 1 << 50, Gateway: "GATEWAY123456"}, Successor: &Place{Ordinal: 3, Encoder: 1<<50 + 1}, Avoid: 7,
			Proven: true, Killed: true, Ousted: true, TookOver: true, FailedMoves: 2, Passthrough: "tenant=7", Why: 3,
		},
		&Stream{ID: id, Channel: "channel-of-somebody", Ordinal: 2, Publication: 1 << 50, Server: 1 << 50, ServerGateway: "GATEWAY123456", Since: 1_700_000_000_000_000_000, Previous: id[1:], Role: Retired, Closing: true, Passthrough: "tenant=7", Why: 8},
		&Told{LastSeq: 5, Outputs: []Output{
			{"HLS-LIVE", "1280x720-30", "hls/\x01/\x02/1280x720-30/live.m3u8", ""}, {"HLS-VOD", "1280x720-30", "hls/\x01/\x02/1280x720-30/vod-0.m3u8", "0"},
			{"IMG-PREVIEW", "256x144", "img-preview/\x01/\x02/256x144-3/index.json", ""}, {"of later", "1", "", ""},
		}},
	}
}

func empty() []tagged.Message {
	return []tagged.Message{&Session{}, &Publication{}, &Stream{}, &Told{}}
}

func TestMemosComeOutAsTheyWentIn(t *testing.T) {
	t.Parallel()
	for i, m := range examples() {
		read := empty()[i]
		if err := tagged.Parse(tagged.Append(nil, m), read); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, read); diff != "" {
			t.Errorf("%T (-written +read):\n%s", m, diff)
		}
	}
}

func TestMemosOfAStreamAreShort(t *testing.T) {
	t.Parallel()
	publication := examples()[1].(*Publication)
	publication.ID, publication.Previous, publication.Successor, publication.Avoid = "", "", nil, 0 // it is live, and not being moved
	total := len(tagged.Append(nil, publication))
	for _, m := range examples()[2:] {
		total += len(tagged.Append(nil, m))
	}
	if total > 600 {
		t.Errorf("the memos of a live stream take %d bytes", total)
	}
	t.Logf("the memos of a live stream take %d bytes", total)
}

func FuzzMemos(f *testing.F) {
	for _, m := range examples() {
		f.Add(tagged.Append(nil, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again := empty()
		for i, m := range empty() {
			if tagged.Parse(b, m) != nil {
				continue
			}
			written := tagged.Append(nil, m)
			if err := tagged.Parse(written, again[i]); err != nil || !bytes.Equal(tagged.Append(nil, again[i]), written) {
				t.Fatalf("%+v comes out as %+v, %v", m, again[i], err)
			}
		}
	})
}

package main

// Outputs of streams, and the short form of their index files.

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnnouncementsAreRememberedOnceAndBounded(t *testing.T) {
	t.Parallel()
	rig := newRegistryRig(t, limits{})
	s, e := rig.server("s", "RTMP"), rig.encoder("e", 1)
	rig.publish(s, "ch")
	for range 3 {
		rig.available(e, "ch", "id1", "HLS-LIVE")
	}
	row := rowsOf(rig.r)[0]
	row.describeAnnounced()
	if diff := cmp.Diff([]announcedOutput{{"HLS-LIVE", "640x360", "i.m3u8", ""}}, row.Announced); diff != "" {
		t.Error("announced (-want +got):\n", diff)
	}
	for i := range 3 * maxOutputs {
		rig.available(e, "ch", "id1", fmt.Sprint("TYPE-", i))
	}
	row = rowsOf(rig.r)[0]
	row.describeAnnounced()
	want := []announcedOutput{{"HLS-LIVE", "640x360", "i.m3u8", ""}}
	for i := range maxOutputs - 1 {
		want = append(want, announcedOutput{fmt.Sprint("TYPE-", i), "640x360", "i.m3u8", ""})
	}
	if diff := cmp.Diff(want, row.Announced); diff != "" {
		t.Error("announced (-want +got):\n", diff)
	}
}

func TestIndexFilesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, names := range [][2]string{{"show", "ID123"}, {"a", "hls"}, {"1280x720", "1280x720"}} {
		st := &stream{id: names[1], pub: &publication{channel: names[0]}}
		for _, file := range []string{
			"", "/", "hls/show/ID123/1280x720/live.m3u8", "/show/show/ID123/ID123/x", "a/hls/a", "\x00", "\x01/\x02", "/a/\x01", "/1280x720/1280x720/1280x720/",
		} {
			if got := indexFileOf(st.formOf(file), names[0], names[1]); got != file {
				t.Errorf("%q of %v comes back as %q", file, names, got)
			}
		}
	}
	of := func(channel, id string) string {
		return (&stream{id: id, pub: &publication{channel: channel}}).formOf("hls/" + channel + "/" + id + "/1280x720/live.m3u8")
	}
	if a, b := of("one", "ID1"), of("another", "ID2"); a != b {
		t.Errorf("the same output has the forms %q and %q", a, b)
	}
}

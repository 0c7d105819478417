package profile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResolutionsAreReadAndWrittenInOneForm(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"":                                   "ORIGINAL",
		" , ,":                               "ORIGINAL",
		"ORIGINAL":                           "ORIGINAL",
		"original":                           "ORIGINAL",
		"1280x720":                           "1280x720",
		"1280x720-30":                        "1280x720-30",
		"1280x720~2500":                      "1280x720~2500",
		"1280x720-30~2500":                   "1280x720-30~2500",
		"1280x720-30,Original":               "1280x720-30,ORIGINAL",
		" 1280 x\t720 - 30 ~ 2500 , 640x360": "1280x720-30~2500,640x360",
		"0640x0360":                          "640x360",
		"2147483647x1":                       "2147483647x1",
		"640x360, 640x360,640 x 360":         "640x360",
		"640x360,640x360-30,640x360~800":     "640x360,640x360-30,640x360~800",
		"ORIGINAL,640x360,original":          "ORIGINAL,640x360",
	} {
		list, dropped := ParseResolutions(header)
		if got := FormatResolutions(list); got != want || dropped != nil {
			t.Errorf("%q: got %q and dropped %q, want %q", header, got, dropped, want)
		}
	}
}

func TestResolutionsCarryTheirNumbers(t *testing.T) {
	t.Parallel()
	got, _ := ParseResolutions("1280x720-30~2500, 640x360, ORIGINAL")
	want := []Resolution{{Width: 1280, Height: 720, FPS: 30, Kbps: 2500}, {Width: 640, Height: 360}, {}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Resolution{})); diff != "" {
		t.Error(diff)
	}
}

func TestResolutionThatCannotBeReadIsDroppedByName(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{
		"x", "1280", "1280x", "x720", "0x720", "1280x0", "-1280x720", "+1280x720", "1280x-720", "1280x720x30", "1280X720",
		"1280x720-", "1280x720-0", "1280x720--30", "1280x720-30-30", "1280x720-29.97", "1280x720~", "1280x720~0", "1280x720-~2500",
		"1280x720~2500-30", "1280x720~2500~2500", "12 80x720", "1_280x720", "0x10x720", "2147483648x720", "99999999999999999999x720",
		"ORIGINAL-30", "ORIGINALS", "720p", "1280x720;", "１２８０x720", "1280x720\x00", "1280x720\n",
	} {
		list, dropped := ParseResolutions("640x360," + entry + ",ORIGINAL")
		if got := FormatResolutions(list); got != "640x360,ORIGINAL" {
			t.Errorf("%q: got %q", entry, got)
		}
		if diff := cmp.Diff([]string{entry}, dropped); diff != "" {
			t.Errorf("%q: dropped: %s", entry, diff)
		}
	}
}

func TestHostileResolutionsStaySmall(t *testing.T) {
	t.Parallel()
	var different strings.Builder
	for i := range 70 {
		fmt.Fprintf(&different, "%dx1,", i+1)
	}
	list, dropped := ParseResolutions(different.String())
	if len(list) != maxResolutions || len(dropped) != 6 || dropped[0] != "65x1" {
		t.Errorf("70 resolutions: kept %d, dropped %q", len(list), dropped)
	}

	list, dropped = ParseResolutions(strings.Repeat("?,", 1000))
	if len(list) != 0 || len(dropped) != maxDroppedNamed+1 || dropped[maxDroppedNamed] != "and 992 more" {
		t.Errorf("1000 unreadable entries: kept %d, dropped %q", len(list), dropped)
	}

	_, dropped = ParseResolutions(strings.Repeat("?", 60_000))
	if want := strings.Repeat("?", maxNamedBytes) + "…"; len(dropped) != 1 || dropped[0] != want {
		t.Errorf("a long entry is dropped as %q", dropped)
	}
}

func TestPreviewsAreReadAndWrittenInOneForm(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"":                    "False",
		"False":               "False",
		" FALSE ":             "False",
		"256x144, 3":          "256x144,3",
		"256x144,3":           "256x144,3",
		"\t256 x 144 ,\t03  ": "256x144,3",
	} {
		if got, ok := ParsePreviews(header); got.String() != want || !ok {
			t.Errorf("%q: got %q, %t, want %q", header, got, ok, want)
		}
	}
}

func TestPreviewsThatCannotBeReadAreFalse(t *testing.T) {
	t.Parallel()
	for _, header := range []string{
		"true", "no", ",", "256x144", "256x144,", "256x144,0", "256x144,-3", "256x144,3,3", "256x144,3s", "0x144,3",
		"256x0,3", "256,3", "x,3", "256x144,2147483648", "256x144 3", "False,3",
	} {
		if got, ok := ParsePreviews(header); got != (Previews{}) || ok {
			t.Errorf("%q: got %q, %t", header, got, ok)
		}
	}
}

func TestOnlyTrueAsksForARecording(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]bool{
		"true": true, "TRUE": true, " True ": true,
		"": false, "false": false, "1": false, "yes": false, "truetrue": false, "true,true": false,
	} {
		if got := ParseRecord(header); got != want {
			t.Errorf("%q: got %t", header, got)
		}
	}
}

func FuzzResolutionsRoundTrip(f *testing.F) {
	for _, header := range []string{"", "original", "1280x720-30~2500, 640x360,ORIGINAL", "x,-,~", "1x1-1~1,1x1"} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		list, dropped := ParseResolutions(header)
		if len(list) > maxResolutions || len(dropped) > maxDroppedNamed+1 {
			t.Fatalf("kept %d, dropped %d", len(list), len(dropped))
		}
		text := FormatResolutions(list)
		if strings.ContainsFunc(text, func(r rune) bool { return !strings.ContainsRune("0123456789x~,-ORIGINAL", r) }) {
			t.Fatalf("%q holds something else than resolutions", text)
		}
		again, dropped := ParseResolutions(text)
		if len(list) == 0 {
			list = []Resolution{{}}
		}
		if diff := cmp.Diff(list, again, cmp.AllowUnexported(Resolution{})); diff != "" || dropped != nil {
			t.Fatalf("%q is read as something else, dropping %q: %s", text, dropped, diff)
		}
	})
}

func FuzzPreviewsRoundTrip(f *testing.F) {
	for _, header := range []string{"", "False", "256x144, 3", "0x1,1", "x,"} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		p, ok := ParsePreviews(header)
		if !ok && p != (Previews{}) {
			t.Fatalf("unreadable, and yet %q", p)
		}
		if again, ok := ParsePreviews(p.String()); again != p || !ok {
			t.Fatalf("%q is read as %q, %t", p, again, ok)
		}
	})
}

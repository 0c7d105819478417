// Package profile has what the application allows a stream: the resolutions to encode, whether to record, whether to make
// preview images.
//
// Parsing and formatting only: no I/O, no logging. What cannot be read is handed back for the caller to warn about.
// A parsed value always formats to something that parses to the same value again.
package profile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	maxResolutions  = 64 // kept of one header; the rest is dropped
	maxDroppedNamed = 8  // named one by one; the rest is counted
	maxNamedBytes   = 64 // of a value that is named in a warning
)

// Profile is what the application allows one stream. No resolutions means ORIGINAL,
// so the zero value is what a stream gets that nothing is said about.
type Profile struct {
	Resolutions []Resolution
	Record      bool
	Previews    Previews
	Passthrough string // words of the application's own, which come back with each event
}

// Resolution is one encoding of a stream. The zero value is ORIGINAL: the video as it comes.
type Resolution struct {
	Width, Height int // pixels
	FPS           int // frames per second; 0 = as it comes
	Kbps          int // kbit/s; 0 = left to the encoder
}

// Previews asks for an image of the given size every so many seconds. The zero value is False: none.
type Previews struct {
	Width, Height int // pixels
	Seconds       int
}

// ParseResolutions reads the x-resolutions header: entries `{W}x{H}[-{FPS}][~{KBIT/S}]` or ORIGINAL (any case),
// separated by commas, with blanks allowed around entries, numbers and signs. Numbers are from 1 to 2^31-1.
// Empty entries are skipped (RFC 9110, 5.6.1.2) and repeated ones kept once.
//
// Entries that cannot be read, and those after the first 64 kept, are left out. dropped names the first 8 of them, each
// cut to 64 bytes, and ends with a count of the others: it is short enough to be logged whatever the header holds.
func ParseResolutions(header string) (list []Resolution, dropped []string) {
	unnamed := 0
	for entry := range strings.SplitSeq(header, ",") {
		entry = trimBlanks(entry)
		if entry == "" {
			continue
		}
		r, ok := parseResolution(entry)
		switch {
		case ok && slices.Contains(list, r):
		case ok && len(list) < maxResolutions:
			list = append(list, r)
		case len(dropped) < maxDroppedNamed:
			dropped = append(dropped, Shortened(entry))
		default:
			unnamed++
		}
	}
	if unnamed > 0 {
		dropped = append(dropped, fmt.Sprintf("and %d more", unnamed))
	}
	return list, dropped
}

func parseResolution(entry string) (r Resolution, ok bool) {
	if strings.EqualFold(entry, "ORIGINAL") {
		return Resolution{}, true
	}
	rest, kbps, hasKbps := strings.Cut(entry, "~")
	size, fps, hasFPS := strings.Cut(rest, "-")
	if r.Width, r.Height, ok = parseSize(size); !ok {
		return Resolution{}, false
	}
	if hasFPS {
		if r.FPS, ok = parsePositive(fps); !ok {
			return Resolution{}, false
		}
	}
	if hasKbps {
		if r.Kbps, ok = parsePositive(kbps); !ok {
			return Resolution{}, false
		}
	}
	return r, true
}

func (r Resolution) String() string {
	if r == (Resolution{}) {
		return "ORIGINAL"
	}
	text := fmt.Sprintf("%dx%d", r.Width, r.Height)
	if r.FPS > 0 {
		text += fmt.Sprintf("-%d", r.FPS)
	}
	if r.Kbps > 0 {
		text += fmt.Sprintf("~%d", r.Kbps)
	}
	return text
}

// FormatResolutions gives the form ENCODE-START carries, such as "1280x720-30~2500,ORIGINAL". An empty list is "ORIGINAL".
func FormatResolutions(list []Resolution) string {
	if len(list) == 0 {
		return Resolution{}.String()
	}
	texts := make([]string, len(list))
	for i, r := range list {
		texts[i] = r.String()
	}
	return strings.Join(texts, ",")
}

// ParsePreviews reads the x-previews header: `{W}x{H}, {SECONDS}`, or False in any case. An empty header is False too.
// What cannot be read counts as False, and ok tells that it could not be read.
func ParsePreviews(header string) (p Previews, ok bool) {
	header = trimBlanks(header)
	if header == "" || strings.EqualFold(header, "False") {
		return Previews{}, true
	}
	size, seconds, _ := strings.Cut(header, ",")
	if p.Width, p.Height, ok = parseSize(size); !ok {
		return Previews{}, false
	}
	if p.Seconds, ok = parsePositive(seconds); !ok {
		return Previews{}, false
	}
	return p, true
}

// String gives the form ENCODE-START carries: "{W}x{H},{SECONDS}" or "False".
func (p Previews) String() string {
	if p == (Previews{}) {
		return "False"
	}
	return fmt.Sprintf("%dx%d,%d", p.Width, p.Height, p.Seconds)
}

// maxPassthrough is in bytes.
const maxPassthrough = 256

// ParsePassthrough reads the x-passthrough header: up to 256 bytes of printable ASCII. Anything else counts as nothing, and ok tells that it
// could not be used.
func ParsePassthrough(header string) (words string, ok bool) {
	isPrintable := func(c rune) bool { return c >= ' ' && c <= '~' }
	if len(header) > maxPassthrough || strings.ContainsFunc(header, func(c rune) bool { return !isPrintable(c) }) {
		return "", false
	}
	return header, true
}

// ParseRecord reads the x-record header: only true, in any case, asks for a recording.
func ParseRecord(header string) bool {
	return strings.EqualFold(trimBlanks(header), "true")
}

func parseSize(text string) (width, height int, ok bool) {
	w, h, _ := strings.Cut(text, "x")
	width, okWidth := parsePositive(w)
	height, okHeight := parsePositive(h)
	return width, height, okWidth && okHeight
}

// parsePositive reads 1 to 2^31-1, which a peer in any language can hold.
func parsePositive(text string) (int, bool) {
	n, err := strconv.ParseUint(trimBlanks(text), 10, 31)
	return int(n), err == nil && n > 0
}

// trimBlanks removes what RFC 9110 calls optional white space.
func trimBlanks(text string) string {
	return strings.Trim(text, " \t")
}

// Shortened makes a value of unknown length fit to be named in a warning.
func Shortened(value string) string {
	if len(value) <= maxNamedBytes {
		return value
	}
	return value[:maxNamedBytes] + "…"
}

// FormatRecord is the Record of ENCODE-START.
func FormatRecord(record bool) string {
	if record {
		return "True"
	}
	return "False"
}

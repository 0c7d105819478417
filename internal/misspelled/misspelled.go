// Package misspelled finds out which setting a variable was meant to be whose name is none of ours but looks like one.
package misspelled

import (
	"slices"
	"strings"
)

// Meant returns the known name that is probably meant by one that is not known, "" if there is none. The longer
// a name, the more slips are allowed: RTMP_PORT and HTTP_HOST, which others use, are two away from HTTP_PORT.
func Meant(name string, known []string) string {
	upper := strings.ToUpper(name)
	if slices.Contains(known, name) || upper == "SSL_CERT_FILE" || upper == "SSL_CERT_DIR" || upper == "SSL_KEY_FILE" { // of OpenSSL and Go; a fault
		return ""
	}
	if base, ok := strings.CutSuffix(upper, "_FILE"); ok && slices.Contains(known, base) { // only secrets can stand in files
		return base
	}
	best, distance := "", slipsAllowed(upper)+1
	for _, candidate := range known {
		if d := editDistance(upper, candidate); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

func slipsAllowed(name string) int {
	for _, prefix := range []string{"KEY_VERIFICATION_", "EVENT_CALLBACK_", "COMMANDS_API_", "CONTROL_", "SSL_"} {
		if strings.HasPrefix(name, prefix) {
			return min(len(name)/4, 5)
		}
	}
	return min(len(name)/7, 2)
}

// editDistance counts the bytes to insert, delete, replace, or swap with their neighbour that turn a into b.
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

package main

// The form of identifiers: channels, keys, stream IDs and other names that peers and the application send.

const maxStreamIDLength = 128

// isToken reports whether s consists of 1 to max characters of [A-Za-z0-9_-].
func isToken(s string, max int) bool {
	if s == "" || len(s) > max {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

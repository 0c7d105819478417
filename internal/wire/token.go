package wire

// IsToken reports whether s is a name as peers and the application may choose them: channels, keys, stream IDs. It consists of 1 to max characters of [A-Za-z0-9_-].
func IsToken(s string, max int) bool {
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

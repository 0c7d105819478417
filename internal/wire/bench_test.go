package wire

import "testing"

func BenchmarkMessageParse(b *testing.B) {
	data := []byte("PUBLISH-REQUEST\nRequest-ID:1234\nStream-Channel:channel-1\nStream-Key:0123456789abcdef\nUser-IP:192.0.2.1\n")
	b.ReportAllocs()
	for b.Loop() {
		if m, err := Parse(data); err != nil || m.Get("User-IP") == "" {
			b.Fatal(m, err)
		}
	}
}

func BenchmarkMessageAppend(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Append(nil, "PUBLISH-ACCEPT", "Request-ID", "1234", "Stream-Channel", "channel-1", "Stream-ID", "HVMAFYBAIQJYKQGXRLT3L3DYOR")
	}
}

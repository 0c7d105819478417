// Package httpjson answers requests in JSON.
package httpjson

import (
	"encoding/json"
	"net/http"
)

// Write answers with a value that can always be encoded. That the client may be gone is none of our concern.
func Write(w http.ResponseWriter, status int, value any) {
	Begin(w, status)
	_ = json.NewEncoder(w).Encode(value)
}

// Begin writes status and headers of an answer whose body the caller writes.
func Begin(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
}

// Error answers with {"error": reason}.
func Error(w http.ResponseWriter, status int, reason string) {
	Write(w, status, struct {
		Error string `json:"error"`
	}{reason})
}

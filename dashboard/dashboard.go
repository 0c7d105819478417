// Package dashboard is the dashboard's page: static files that hold no data. All data comes from the commands API, which asks
// for its own authorization; the page runs nothing but its own files and talks to nobody but the daemon that served it.
package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"net/http"
	"path"
	"time"

	"coordinator/internal/httpjson"
)

//go:embed *.css *.html *.js
var files embed.FS

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// New serves GET /dashboard and the files under /dashboard/, whose names are the request's path value "file". Browsers keep the files and ask each time
// whether they are still those of the running daemon (ETag, RFC 9110, 8.8.3).
func New() http.HandlerFunc {
	contentTypes := map[string]string{
		".html": "text/html; charset=utf-8",
		".css":  "text/css; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
	}
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("file")
		if name == "" {
			name = "index.html"
		}
		content, err := files.ReadFile(name)
		if err != nil {
			httpjson.Error(w, http.StatusNotFound, httpjson.UnknownPath, "not found")
			return
		}
		h := w.Header()
		h.Set("Content-Type", contentTypes[path.Ext(name)])
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(content)))
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	}
}

// IsFile tells whether New serves a file of that name.
func IsFile(name string) bool {
	file, err := files.Open(name)
	if err != nil {
		return false
	}
	file.Close()
	return true
}

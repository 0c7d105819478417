// The application's two endpoints in Go, with SQLite.
//
// DATABASE and PORT say where. With TOKEN the coordinator has to show it: KEY_VERIFICATION_AUTH=Bearer,
// KEY_VERIFICATION_AUTH_TOKEN=..., and the same for EVENT_CALLBACK. Without it anybody may ask: for a trial only.
package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"time"

	_ "modernc.org/sqlite"
)

const schema = `
CREATE TABLE IF NOT EXISTS channels (name TEXT PRIMARY KEY, key TEXT NOT NULL, owner TEXT NOT NULL,
  resolutions TEXT NOT NULL, record TEXT NOT NULL, previews TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS streams (id TEXT PRIMARY KEY, channel TEXT NOT NULL, previous TEXT, passthrough TEXT,
  live INTEGER NOT NULL, close_reason TEXT, duration REAL);
CREATE TABLE IF NOT EXISTS playable (stream TEXT NOT NULL, type TEXT NOT NULL, resolution TEXT NOT NULL,
  index_file TEXT NOT NULL, start_time TEXT, PRIMARY KEY (stream, type, resolution));
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, type TEXT NOT NULL, channel TEXT NOT NULL, stream TEXT,
  happened TEXT NOT NULL, reason TEXT, passthrough TEXT);
INSERT OR IGNORE INTO channels VALUES ('demo', 'demo-key', 'user-1', 'ORIGINAL, 1280x720-30~2500', 'true', '256x144, 3');
`

type application struct {
	db    *sql.DB
	token string
}

func main() {
	db, err := sql.Open("sqlite", "file:"+cmp.Or(os.Getenv("DATABASE"), "application.db"))
	if err != nil {
		log.Fatal(err)
	}
	db.SetMaxOpenConns(1) // one request at a time uses the database
	if _, err := db.Exec(schema); err != nil {
		log.Fatal(err)
	}
	a := application{db, os.Getenv("TOKEN")}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /verify", a.authorized(a.verify))
	mux.HandleFunc("POST /event", a.authorized(a.event))
	l, err := net.Listen("tcp", ":"+cmp.Or(os.Getenv("PORT"), "8000"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on port", l.Addr().(*net.TCPAddr).Port)
	server := http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(l))
}

func (a application) authorized(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if a.token != "" && !same(r.Header.Get("Authorization"), "Bearer "+a.token) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func (a application) verify(w http.ResponseWriter, r *http.Request) {
	var key, owner, resolutions, record, previews string
	err := a.db.QueryRowContext(r.Context(), "SELECT key, owner, resolutions, record, previews FROM channels WHERE name = ?",
		value(r, "x-streaming-channel")).Scan(&key, &owner, &resolutions, &record, &previews)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		w.WriteHeader(http.StatusNotFound)
	case err != nil:
		log.Print(err)
		w.WriteHeader(http.StatusInternalServerError)
	case !same(r.Header.Get("x-streaming-key"), key):
		w.WriteHeader(http.StatusForbidden)
	default:
		w.Header().Set("x-resolutions", resolutions)
		w.Header().Set("x-record", record)
		w.Header().Set("x-previews", previews)
		w.Header().Set("x-passthrough", owner) // comes back with each event of the stream
		w.WriteHeader(http.StatusOK)
	}
}

func (a application) event(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("x-event-id") == "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if err := a.take(r); err != nil {
		log.Print(err)
		w.WriteHeader(http.StatusInternalServerError) // the event comes again
		return
	}
	w.WriteHeader(http.StatusOK) // only now: what is told is in the database
}

// take takes an event in one transaction: what fails changes nothing. An event may come twice, always under the same ID.
func (a application) take(r *http.Request) error {
	tx, err := a.db.BeginTx(r.Context(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after a commit
	added, err := tx.Exec("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", values(r, "x-event-id", "x-event-type",
		"x-streaming-channel", "x-streaming-id", "x-event-time", "x-reason", "x-passthrough")...)
	if err != nil {
		return err
	}
	if rows, err := added.RowsAffected(); err != nil || rows == 0 {
		return err // it has come before
	}
	if err := apply(tx, r); err != nil {
		return err
	}
	return tx.Commit()
}

func apply(tx *sql.Tx, r *http.Request) error {
	switch r.Header.Get("x-event-type") {
	case "stream-available":
		_, streamErr := tx.Exec("INSERT INTO streams (id, channel, previous, passthrough, live) VALUES (?, ?, ?, ?, 1) ON CONFLICT (id) DO NOTHING",
			values(r, "x-streaming-id", "x-streaming-channel", "x-previous-streaming-id", "x-passthrough")...)
		_, playableErr := tx.Exec("INSERT OR REPLACE INTO playable VALUES (?, ?, ?, ?, ?)",
			values(r, "x-streaming-id", "x-stream-type", "x-resolution", "x-index-file", "x-start-time")...)
		return errors.Join(streamErr, playableErr)
	case "stream-closed":
		_, streamErr := tx.Exec("UPDATE streams SET live = 0, close_reason = ?, duration = ? WHERE id = ?",
			values(r, "x-close-reason", "x-duration", "x-streaming-id")...)
		_, playableErr := tx.Exec("DELETE FROM playable WHERE stream = ? AND type = 'HLS-LIVE'", // a recording stays
			value(r, "x-streaming-id"))
		return errors.Join(streamErr, playableErr)
	}
	return nil // other types, of later versions too, are in the table of events and need nothing else
}

func values(r *http.Request, names ...string) (list []any) {
	for _, name := range names {
		list = append(list, value(r, name))
	}
	return list
}

var encoded = regexp.MustCompile(`[^ -~]|^ | $`)

// value is a header, or NULL. What no header can carry comes percent-encoded, and nothing else does.
func value(r *http.Request, name string) sql.NullString {
	given := r.Header.Get(name)
	if decoded, err := url.PathUnescape(given); err == nil && encoded.MatchString(decoded) {
		given = decoded
	}
	return sql.NullString{String: given, Valid: r.Header.Values(name) != nil}
}

// same takes the same time wherever they differ.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

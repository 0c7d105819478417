# An application in one file, with nothing but Python 3: it says who may publish, and keeps in SQLite what can be played.
#
# DATABASE and PORT say where. With TOKEN the coordinator has to show it: KEY_VERIFICATION_AUTH=Bearer,
# KEY_VERIFICATION_AUTH_TOKEN=..., and the same for EVENT_CALLBACK. Without it anybody may ask: for a trial only.
import hmac, os, sqlite3, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

SCHEMA = """
CREATE TABLE IF NOT EXISTS channels (name TEXT PRIMARY KEY, key TEXT NOT NULL, owner TEXT NOT NULL,
  resolutions TEXT NOT NULL, record TEXT NOT NULL, previews TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS streams (id TEXT PRIMARY KEY, channel TEXT NOT NULL, previous TEXT, passthrough TEXT,
  live INTEGER NOT NULL, close_reason TEXT, duration REAL);
CREATE TABLE IF NOT EXISTS playable (stream TEXT NOT NULL, type TEXT NOT NULL, resolution TEXT NOT NULL,
  index_file TEXT NOT NULL, start_time TEXT, PRIMARY KEY (stream, type, resolution));
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, type TEXT NOT NULL, channel TEXT NOT NULL, stream TEXT,
  happened TEXT NOT NULL, reason TEXT, passthrough TEXT);
INSERT OR IGNORE INTO channels VALUES ('demo', 'demo-key', 'user-1', 'ORIGINAL, 1280x720-30~2500', 'true', '256x144, 3');
"""
TOKEN = os.environ.get("TOKEN", "")

db = sqlite3.connect(os.environ.get("DATABASE", "application.db"), check_same_thread=False)
db.executescript(SCHEMA)
turn = threading.Lock()  # one request at a time uses the connection


class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self):
        try:
            if TOKEN and not same(self.headers.get("authorization", ""), "Bearer " + TOKEN):
                self.answer(401)
            elif self.path == "/verify":
                self.verify()
            elif self.path == "/event":
                self.event()
            else:
                self.answer(404)
        except sqlite3.Error as error:
            print(error, file=sys.stderr, flush=True)
            self.answer(500)  # the event comes again

    def verify(self):
        with turn:
            channel = db.execute("SELECT key, owner, resolutions, record, previews FROM channels WHERE name = ?",
                                 [self.value("x-streaming-channel")]).fetchone()
        if channel is None:
            return self.answer(404)
        key, owner, resolutions, record, previews = channel
        if not same(self.value("x-streaming-key") or "", key):
            return self.answer(403)
        self.answer(200, {"x-resolutions": resolutions, "x-record": record, "x-previews": previews,
                          "x-passthrough": owner})  # comes back with each event of the stream

    def event(self):
        if not self.value("x-event-id"):
            return self.answer(400)
        with turn, db:  # one transaction: what fails changes nothing, and the event comes again
            new = self.is_new()
            if new:
                self.apply()
        self.answer(200)  # only now: what is told is in the database
        if new:
            names = ("x-streaming-channel", "x-event-type", "x-streaming-id", "x-stream-type", "x-resolution", "x-index-file", "x-close-reason")
            print(*(self.value(n) for n in names if self.value(n)), flush=True)

    def is_new(self):
        """Whether this event has not come before: an event may come twice, always under the same ID."""
        names = ("x-event-id", "x-event-type", "x-streaming-channel", "x-streaming-id", "x-event-time", "x-reason", "x-passthrough")
        return db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", [self.value(n) for n in names]).rowcount == 1

    def apply(self):
        kind, stream = self.value("x-event-type"), self.value("x-streaming-id")
        if kind == "stream-available":
            names = ("x-streaming-id", "x-streaming-channel", "x-previous-streaming-id", "x-passthrough")
            db.execute("INSERT INTO streams (id, channel, previous, passthrough, live) VALUES (?, ?, ?, ?, 1) ON CONFLICT (id) DO NOTHING",
                       [self.value(n) for n in names])
            names = ("x-streaming-id", "x-stream-type", "x-resolution", "x-index-file", "x-start-time")
            db.execute("INSERT OR REPLACE INTO playable VALUES (?, ?, ?, ?, ?)", [self.value(n) for n in names])
        elif kind == "stream-closed":
            db.execute("UPDATE streams SET live = 0, close_reason = ?, duration = ? WHERE id = ?",
                       [self.value("x-close-reason"), self.value("x-duration"), stream])
            db.execute("DELETE FROM playable WHERE stream = ? AND type = 'HLS-LIVE'", [stream])  # a recording stays
        # Other types, of later versions too, are in the table of events and need nothing else.

    def value(self, name):
        """A header, or None. What no header can carry comes percent-encoded, and nothing else does."""
        value = self.headers.get(name)
        decoded = unquote(value or "")
        return decoded if not (decoded.isascii() and decoded.isprintable()) or decoded != decoded.strip(" ") else value

    def answer(self, status, headers={}):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args):
        pass


def same(a, b):
    """Takes the same time wherever they differ."""
    return hmac.compare_digest(a.encode(), b.encode())


server = ThreadingHTTPServer(("", int(os.environ.get("PORT", "8000"))), Application)
print("listening on port", server.server_port, flush=True)
server.serve_forever()

// The application's two endpoints with Express, and SQLite as Node has it built in (22.13 or newer).
//
// DATABASE and PORT say where. With TOKEN the coordinator has to show it: KEY_VERIFICATION_AUTH=Bearer,
// KEY_VERIFICATION_AUTH_TOKEN=..., and the same for EVENT_CALLBACK. Without it anybody may ask: for a trial only.
import { createHash, timingSafeEqual } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import express from "express";

const { TOKEN, PORT = "8000", DATABASE = "application.db" } = process.env;

const db = new DatabaseSync(DATABASE);
db.exec(`
CREATE TABLE IF NOT EXISTS channels (name TEXT PRIMARY KEY, key TEXT NOT NULL, owner TEXT NOT NULL,
  resolutions TEXT NOT NULL, record TEXT NOT NULL, previews TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS streams (id TEXT PRIMARY KEY, channel TEXT NOT NULL, previous TEXT, passthrough TEXT,
  live INTEGER NOT NULL, close_reason TEXT, duration REAL);
CREATE TABLE IF NOT EXISTS playable (stream TEXT NOT NULL, type TEXT NOT NULL, resolution TEXT NOT NULL,
  index_file TEXT NOT NULL, start_time TEXT, PRIMARY KEY (stream, type, resolution));
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, type TEXT NOT NULL, channel TEXT NOT NULL, stream TEXT,
  happened TEXT NOT NULL, reason TEXT, passthrough TEXT);
INSERT OR IGNORE INTO channels VALUES ('demo', 'demo-key', 'user-1', 'ORIGINAL, 1280x720-30~2500', 'true', '256x144, 3');
`);

const findChannel = db.prepare("SELECT key, owner, resolutions, record, previews FROM channels WHERE name = ?");
const addEvent = db.prepare("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING");
const addStream = db.prepare("INSERT INTO streams (id, channel, previous, passthrough, live) VALUES (?, ?, ?, ?, 1) ON CONFLICT (id) DO NOTHING");
const addPlayable = db.prepare("INSERT OR REPLACE INTO playable VALUES (?, ?, ?, ?, ?)");
const endStream = db.prepare("UPDATE streams SET live = 0, close_reason = ?, duration = ? WHERE id = ?");
const dropLive = db.prepare("DELETE FROM playable WHERE stream = ? AND type = 'HLS-LIVE'"); // a recording stays

const app = express();

app.use((req, res, next) => {
  if (TOKEN && !same(req.get("authorization") ?? "", `Bearer ${TOKEN}`)) return res.status(401).end();
  next();
});

app.post("/verify", (req, res) => {
  const channel = findChannel.get(value(req, "x-streaming-channel"));
  if (!channel) return res.status(404).end();
  if (!same(value(req, "x-streaming-key") ?? "", channel.key)) return res.status(403).end();
  res.set({
    "x-resolutions": channel.resolutions,
    "x-record": channel.record,
    "x-previews": channel.previews,
    "x-passthrough": channel.owner, // comes back with each event of the stream
  });
  res.status(200).end();
});

app.post("/event", (req, res) => {
  if (!value(req, "x-event-id")) return res.status(400).end();
  db.exec("BEGIN IMMEDIATE"); // one transaction: what fails changes nothing, and the event comes again
  try {
    if (isNew(req)) apply(req);
    db.exec("COMMIT");
  } catch (error) {
    if (db.isTransaction) db.exec("ROLLBACK");
    throw error;
  }
  res.status(200).end(); // only now: what is told is in the database
});

// Without a status of its own an error is answered with 500, and the event comes again.
app.use((error, req, res, next) => {
  console.error(error);
  res.status(error.status ?? 500).end();
});

// Whether this event has not come before: an event may come twice, always under the same ID.
function isNew(req) {
  const names = ["x-event-id", "x-event-type", "x-streaming-channel", "x-streaming-id", "x-event-time", "x-reason", "x-passthrough"];
  return addEvent.run(...names.map((name) => value(req, name))).changes === 1;
}

function apply(req) {
  const get = (name) => value(req, name);
  const stream = get("x-streaming-id");
  switch (get("x-event-type")) {
    case "stream-available":
      addStream.run(stream, get("x-streaming-channel"), get("x-previous-streaming-id"), get("x-passthrough"));
      addPlayable.run(stream, get("x-stream-type"), get("x-resolution"), get("x-index-file"), get("x-start-time"));
      break;
    case "stream-closed":
      endStream.run(get("x-close-reason"), get("x-duration"), stream);
      dropLive.run(stream);
      break;
    // Other types, of later versions too, are in the table of events and need nothing else.
  }
}

// A header, or null. What no header can carry comes percent-encoded, and nothing else does.
function value(req, name) {
  const given = req.get(name) ?? null;
  try {
    const decoded = decodeURIComponent(given ?? "");
    return /[^ -~]|^ | $/.test(decoded) ? decoded : given;
  } catch {
    return given; // a % of its own
  }
}

// Takes the same time wherever they differ.
function same(a, b) {
  const digest = (text) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

const server = app.listen(Number(PORT), (error) => {
  if (error) throw error;
  console.log("listening on port", server.address().port);
});
server.keepAliveTimeout = 10_000; // longer than the coordinator keeps an idle connection

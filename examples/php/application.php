<?php
// The application's two endpoints in PHP, with SQLite: PHP_CLI_SERVER_WORKERS=4 php -S 0.0.0.0:8000 application.php
//
// DATABASE says where. With TOKEN the coordinator has to show it: KEY_VERIFICATION_AUTH=Bearer,
// KEY_VERIFICATION_AUTH_TOKEN=..., and the same for EVENT_CALLBACK. Without it anybody may ask: for a trial only.
declare(strict_types=1);

const SCHEMA = "
CREATE TABLE IF NOT EXISTS channels (name TEXT PRIMARY KEY, key TEXT NOT NULL, owner TEXT NOT NULL,
  resolutions TEXT NOT NULL, record TEXT NOT NULL, previews TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS streams (id TEXT PRIMARY KEY, channel TEXT NOT NULL, previous TEXT, passthrough TEXT,
  live INTEGER NOT NULL, close_reason TEXT, duration REAL);
CREATE TABLE IF NOT EXISTS playable (stream TEXT NOT NULL, type TEXT NOT NULL, resolution TEXT NOT NULL,
  index_file TEXT NOT NULL, start_time TEXT, PRIMARY KEY (stream, type, resolution));
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, type TEXT NOT NULL, channel TEXT NOT NULL, stream TEXT,
  happened TEXT NOT NULL, reason TEXT, passthrough TEXT);
INSERT OR IGNORE INTO channels VALUES ('demo', 'demo-key', 'user-1', 'ORIGINAL, 1280x720-30~2500', 'true', '256x144, 3');
";

set_exception_handler(function (Throwable $error): void {
    error_log((string) $error);
    http_response_code(500); // the event comes again
});

$token = getenv('TOKEN') ?: '';
if ($token !== '' && !hash_equals("Bearer $token", $_SERVER['HTTP_AUTHORIZATION'] ?? '')) {
    http_response_code(401);
    return;
}

$db = new PDO('sqlite:' . (getenv('DATABASE') ?: 'application.db'));
$db->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION);
$db->setAttribute(PDO::ATTR_TIMEOUT, 8); // seconds to wait for other workers; the coordinator waits for 10
if (!$db->query('SELECT 1 FROM sqlite_master')->fetch()) { // it is new
    $db->exec('BEGIN IMMEDIATE;' . SCHEMA . 'COMMIT'); // all of it, and other workers wait
}

http_response_code(match ($_SERVER['REQUEST_METHOD'] . ' ' . $_SERVER['REQUEST_URI']) {
    'POST /verify' => verify($db),
    'POST /event' => event($db),
    default => 404,
});

function verify(PDO $db): int
{
    $channel = run($db, 'SELECT * FROM channels WHERE name = ?', [value('x-streaming-channel')])->fetch(PDO::FETCH_ASSOC);
    if (!$channel) {
        return 404;
    }
    if (!hash_equals($channel['key'], value('x-streaming-key') ?? '')) { // takes the same time wherever they differ
        return 403;
    }
    header("x-resolutions: $channel[resolutions]");
    header("x-record: $channel[record]");
    header("x-previews: $channel[previews]");
    header("x-passthrough: $channel[owner]"); // comes back with each event of the stream
    return 200;
}

function event(PDO $db): int
{
    if ((value('x-event-id') ?? '') === '') {
        return 400;
    }
    $db->exec('BEGIN IMMEDIATE'); // one transaction: what fails changes nothing, and the event comes again
    if (isNew($db)) {
        apply($db);
    }
    $db->exec('COMMIT');
    return 200; // only now: what is told is in the database
}

// Whether this event has not come before: an event may come twice, always under the same ID.
function isNew(PDO $db): bool
{
    $names = ['x-event-id', 'x-event-type', 'x-streaming-channel', 'x-streaming-id', 'x-event-time', 'x-reason', 'x-passthrough'];
    return run($db, 'INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING', array_map('value', $names))->rowCount() === 1;
}

function apply(PDO $db): void
{
    $stream = value('x-streaming-id');
    switch (value('x-event-type')) {
        case 'stream-available':
            run($db, 'INSERT INTO streams (id, channel, previous, passthrough, live) VALUES (?, ?, ?, ?, 1) ON CONFLICT (id) DO NOTHING',
                [$stream, value('x-streaming-channel'), value('x-previous-streaming-id'), value('x-passthrough')]);
            run($db, 'INSERT OR REPLACE INTO playable VALUES (?, ?, ?, ?, ?)',
                [$stream, value('x-stream-type'), value('x-resolution'), value('x-index-file'), value('x-start-time')]);
            break;
        case 'stream-closed':
            run($db, 'UPDATE streams SET live = 0, close_reason = ?, duration = ? WHERE id = ?',
                [value('x-close-reason'), value('x-duration'), $stream]);
            run($db, "DELETE FROM playable WHERE stream = ? AND type = 'HLS-LIVE'", [$stream]); // a recording stays
            break;
        // Other types, of later versions too, are in the table of events and need nothing else.
    }
}

function run(PDO $db, string $statement, array $values): PDOStatement
{
    $prepared = $db->prepare($statement);
    $prepared->execute($values);
    return $prepared;
}

// A header, or null. What no header can carry comes percent-encoded, and nothing else does.
function value(string $name): ?string
{
    $given = $_SERVER['HTTP_' . strtoupper(strtr($name, '-', '_'))] ?? null;
    $decoded = rawurldecode($given ?? '');
    return preg_match('/[^ -~]|^ | $/D', $decoded) ? $decoded : $given;
}

# An application for a trial: it knows the keys, and prints each event once.
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEYS = {"demo": "demo-key"}  # channel: key
seen = set()                 # in production: a database, in the same transaction as what the event changes

class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self):
        channel = self.headers.get("x-streaming-channel", "")
        if self.path == "/verify":
            key = self.headers.get("x-streaming-key", "")
            if key and KEYS.get(channel) == key:
                self.answer(200, {"x-record": "true", "x-previews": "256x144, 3",
                                  "x-resolutions": "ORIGINAL, 1280x720-30~2500"})
            else:
                self.answer(403)
        elif self.path == "/event":
            if self.headers["x-event-id"] not in seen:
                seen.add(self.headers["x-event-id"])
                names = ("x-event-type", "x-streaming-id", "x-stream-type", "x-resolution", "x-index-file")
                print(channel, *(self.headers[n] for n in names if self.headers[n]), flush=True)
            self.answer(200)
        else:
            self.answer(404)

    def answer(self, status, headers={}):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("", 8000), Application).serve_forever()

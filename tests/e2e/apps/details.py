"""An application as people write them: Python's own server, nothing of a mesh."""

import http.server
import json


class Details(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"name": "details-python", "path": self.path, "pages": 200}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("", 9080), Details).serve_forever()

"""A server outside the mesh that speaks TLS, by OpenSSL: says which name it was asked for.

Usage: tls_server.py ADDRESS PORT CERTIFICATE KEY
"""

import http.server
import json
import ssl
import sys

ADDRESS, PORT, CERTIFICATE, KEY = sys.argv[1:]


class Secret(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        sni = getattr(self.connection, "asked_for", None)
        body = json.dumps({"name": f"{sni} by {self.connection.version()}"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def remember(connection, name, _context):
    connection.asked_for = name


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
context.sni_callback = remember
server = http.server.ThreadingHTTPServer((ADDRESS, int(PORT)), Secret)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()

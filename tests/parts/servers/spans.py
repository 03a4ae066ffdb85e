"""Receives spans over OTLP/HTTP, as Jaeger's collector does: `spans.py PORT FOLDER` keeps each request as a file."""

from __future__ import annotations

import gzip
import itertools
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

NUMBERS = itertools.count()


class Collector(BaseHTTPRequestHandler):
    """Answers POST /v1/traces."""

    def do_POST(self) -> None:
        """Keep the body."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            (Path(sys.argv[2]) / f"{next(NUMBERS)}").write_bytes(body)
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    HTTPServer(("", int(sys.argv[1])), Collector).serve_forever()

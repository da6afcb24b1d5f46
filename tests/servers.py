"""A web server that stalls, cuts off, redirects, forgets and lies, for tests of downloads."""

from __future__ import annotations

import http.server
import threading


class Server:
    """Answers each request as the next of `ways` says, then as the last; keeps what was asked."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag: str | None = '"one"'
        self.ways: list[str] = ["fine"]
        self.asked: list[str | None] = []
        self.over = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.asked.append(self.headers["Range"])
                way = outer.ways.pop(0) if len(outer.ways) > 1 else outer.ways[0]
                outer.answer(self, way)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/archive.zip"

    def answer(self, request: http.server.BaseHTTPRequestHandler, way: str) -> None:
        body, start = self.content, 0
        if way.startswith("status"):
            request.send_error(int(way.removeprefix("status")))
            return
        if way.startswith("to "):
            request.send_response(302)
            request.send_header("Location", way.removeprefix("to "))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        asked = request.headers["Range"]
        if asked and way != "all" and request.headers["If-Range"] == self.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        if self.etag:
            request.send_header("ETag", self.etag)
        kind = "text/html" if way == "page" else "application/json" if way == "record" else "application/zip"
        request.send_header("Content-Type", kind)
        rest = body[start:]
        if way == "chunked":
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
            return
        more = 5 * 10**9 if way == "huge" else 0
        request.send_header("Content-Length", str(len(rest) + more))
        request.end_headers()
        if way in ("cut", "stall"):
            request.wfile.write(rest[: 400 - start % 100])
            request.wfile.flush()
            if way == "stall":
                self.over.wait()
            request.close_connection = True
            return
        request.wfile.write(rest)

"""The browser's share of Streamlit, compressed: a first visit loads 2.8 MB in place of 8.

Streamlit leaves this to a proxy, because its own middleware would compress a file at every request. Here
each is compressed once and kept.
"""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass, field

from dashboard.guard import App, Receive, Scope, Send

FILES = "/static/"
LEAST_BYTES = 1000


@dataclass
class Compressed:
    """An ASGI middleware for files below `/static/`; everything else goes through as it is."""

    app: App
    _kept: dict[str, tuple[list[tuple[bytes, bytes]], bytes]] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _wanted(scope):
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path not in self._kept:
            answer: list[Scope] = []

            async def collect(message: Scope) -> None:
                answer.append(message)

            await self.app(scope, receive, collect)
            start, body = answer[0], b"".join(part.get("body", b"") for part in answer[1:])
            headers = [(name.lower(), value) for name, value in start["headers"]]
            text = (
                dict(headers)
                .get(b"content-type", b"")
                .split(b";")[0]
                .endswith((b"javascript", b"css", b"json"))
            )
            if start["status"] != 200 or not text or len(body) < LEAST_BYTES:
                for message in answer:
                    await send(message)
                return
            small = await asyncio.to_thread(gzip.compress, body, 6)
            headers = [pair for pair in headers if pair[0] != b"content-length"]
            headers += [(b"content-length", str(len(small)).encode()), (b"content-encoding", b"gzip")]
            self._kept[path] = [*headers, (b"vary", b"accept-encoding")], small
        headers, small = self._kept[path]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": small})


def _wanted(scope: Scope) -> bool:
    """Whether it is the first request of a whole file, by a browser that takes gzip."""
    if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(FILES):
        return False
    headers = {name.lower(): value for name, value in scope["headers"]}
    again = {b"range", b"if-none-match", b"if-modified-since"} & set(headers)
    return not again and b"gzip" in headers.get(b"accept-encoding", b"")

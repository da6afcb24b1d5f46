"""What stands between the network and Streamlit: who may ask, from which page, and how much at once.

`install` wraps Streamlit's server in one ASGI middleware, `Guard`. Streamlit alone compares host names
without their port, lets WebSockets without an Origin in, names large media by parts of their content, and
writes uploads of more than 1 MiB to a temporary file; here are the stricter rules, for all its addresses.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import cookie_parser

from dashboard import first_paint, room
from dashboard.room import Room
from dashboard.turns import Pace

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN = "QMOE_TOKEN"
"""The variable that names the token; where it is empty, every start makes a new one."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("", "0.0.0.0", "::")
HEALTH = "/_stcore/health"
UPLOADS = "/_stcore/upload_file/"
CLOSED = ("/_stcore/metrics", "/_stcore/agent", "/_stcore/script-health-check")
"""Addresses of Streamlit's that nobody needs here: what others have in memory, and programs that click."""
HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
)
OTHER_NAME = """<script>
if (location.host !== HOST) addEventListener("load", () => {
  document.body.textContent = `This page was opened as ${location.host}, and the lab was asked as ${HOST}, \
so it does not answer: let the proxy between them pass the Host on, and name it when the lab is started, \
with qmoe app --host ${location.hostname}, or --address where there is no proxy.`;
});
</script>"""
"""Said where a page would stay empty: the WebSocket of a page with another name is refused."""
_NOT_FOR_PAGES = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
NO_ROOM = (413, "These are more files than visitors may have here at once; try again later.")
_SAFE = ("GET", "HEAD", "OPTIONS")
BASE = '<script>window.__streamlit = {BACKEND_BASE_URL: new URL(".", location.href).href}</script>'
"""In the page's head: where its server is. Streamlit looks below the page's own address first: two 404s."""


@dataclass(frozen=True)
class Bounds:
    """What may be under way at once in a lab that is open to the public.

    Attributes:
        sockets, per_address: WebSockets in all, and of one network address.
        frame: bytes of a message from a browser; a larger one is refused before it is buffered.
        session_bytes, total_bytes: see `room.Room`.
        asks, visits: requests and new WebSockets of an address, a second and at once; others are refused.
        messages: of a WebSocket, likewise, each of at most `small` bytes; others wait.
        handling: seconds of the event loop's processor time that messages of an address take, likewise.
        costly_s: after a message that takes longer the connection ends, and its address may come less often.
        upload_rate: bytes a second that an upload brings at least, after ten seconds.
        unread_s: how long a browser may take to read one message.
    """

    sockets: int = 256
    per_address: int = 32
    frame: int = 2 << 20
    session_bytes: int = 40 << 20
    total_bytes: int = 200 << 20
    asks: tuple[float, float] = (40.0, 1000.0)
    visits: tuple[float, float] = (2.0, 40.0)
    messages: tuple[float, float] = (20.0, 60.0)
    handling: tuple[float, float] = (0.05, 0.15)
    costly_s: float = 0.05
    small: int = 256 << 10
    upload_rate: float = 50e3
    unread_s: float = 20.0


class _NoRoom(Exception):
    """A file that is on its way finds no room any more."""


@dataclass
class Guard:
    """An ASGI middleware that answers strangers itself, and hands the rest on.

    Attributes:
        app: what it stands before.
        hosts: names, without port, by which the lab may be asked; IP addresses too where `literals`.
        port: in the Host; None for any, as behind a proxy.
        token: what everybody must know; None where all may come in.
        bounds: None where there are none.
        room: what sessions hold; None where there are no bounds.
    """

    app: App
    hosts: Collection[str]
    literals: bool = False
    port: int | None = None
    token: str | None = None
    bounds: Bounds | None = None
    room: Room | None = None
    _sockets: Counter[str] = field(default_factory=Counter)
    _asks: dict[str, Pace] = field(default_factory=dict)
    _visits: dict[str, Pace] = field(default_factory=dict)
    _handling: dict[str, Pace] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers) or self._too_often(scope)
        if refused is not None:
            await _answer(scope, send, *refused)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["path"].startswith(UPLOADS) and scope["method"] == "PUT" and self.bounds is not None:
            await self._upload(scope, headers, receive, send)
        else:
            await self._request(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        """Status and sentence for who may not ask that; None for who may."""
        host, origin, path = headers.get(b"host", ""), headers.get(b"origin"), scope["path"]
        if path == HEALTH and scope["type"] == "http" and origin is None:
            return None  # says only that the lab runs: for who watches over it, by whatever name
        if not self._ours(host):
            return 403, (
                f"This lab does not answer to the name {host[:80]!r}; "
                "name it when the lab is started: qmoe app --host NAME, or --address NAME to listen there"
            )
        writes = scope["type"] == "websocket" or scope["method"] not in _SAFE
        if (writes and origin is None) or (origin is not None and not _same(origin, host)):
            return 403, "Only the lab’s own pages may do that."
        if path.startswith(CLOSED):
            return 404, "There is nothing here."
        if self.token is not None and not self._knows(scope, headers):
            return 403, (
                "This lab is its owner’s alone. Open the address that was printed when it was started; "
                "it ends in ?token=…"
            )
        return None

    def _ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            return False
        if parts.netloc != host or "@" in host or not name:
            return False
        if self.port is not None and (port or 80) != self.port:
            return False
        return name in self.hosts or (self.literals and _is_literal(name))

    def _knows(self, scope: Scope, headers: dict[bytes, str]) -> bool:
        given = [value for key, value in _query(scope) if key == "token"] if scope["type"] == "http" else []
        given.append(cookie_parser(headers.get(b"cookie", "")).get(self._cookie(scope), ""))
        known = str(self.token).encode()
        return any(hmac.compare_digest(value.encode(), known) for value in given)

    def _cookie(self, scope: Scope) -> str:
        return cookie_name((scope.get("server") or ("", self.port or 0))[1])

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = _query(scope)
        if self.token is not None and any(key == "token" for key, _ in query):
            # The cookie carries the token on; it is taken out of the address, which people copy and send.
            rest = urlencode([(key, value) for key, value in query if key != "token"])
            path = "/" + scope["path"].lstrip("/\\")  # never another host's
            cookie = f"{self._cookie(scope)}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            where = (path + (f"?{rest}" if rest else "")).encode("ascii", "replace")
            await _answer(scope, send, 303, "", [(b"location", where), (b"set-cookie", cookie.encode())])
            return

        headers = {name.lower(): value for name, value in scope["headers"]}
        page = scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b"")
        if page:  # as it is, for something is written into it
            plain = [pair for pair in scope["headers"] if pair[0].lower() not in _NOT_FOR_PAGES]
            scope = {**scope, "headers": plain}

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal page
            if message["type"] == "http.response.start":
                ours = {name for name, _ in HEADERS}
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in ours]
                page = page and any(
                    name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in kept
                )
                if page:
                    kept = [pair for pair in kept if pair[0].lower() not in (b"content-length", b"etag")]
                message = {**message, "headers": [*kept, *HEADERS]}
            elif page and b"<head>" in message.get("body", b""):
                asked = json.dumps(headers.get(b"host", b"").decode("latin-1")).replace("<", "\\u003c")
                script = (BASE + OTHER_NAME.replace("HOST", asked) + first_paint.head()).encode()
                message = {**message, "body": message["body"].replace(b"<head>", b"<head>" + script, 1)}
            await send(message)

        await self.app(scope, receive, with_headers)

    def _too_often(self, scope: Scope) -> tuple[int, str] | None:
        """Status and sentence for an address that asks more often than it may."""
        if self.bounds is None:
            return None
        opens = scope["type"] == "websocket"
        paces, rate = (self._visits, self.bounds.visits) if opens else (self._asks, self.bounds.asks)
        pace = _pace(paces, _address(scope), rate)
        return (429, "You ask more often than a visitor may.") if pace.after() else None

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        bounds, address = self.bounds, _address(scope)
        if bounds is None:
            await self.app(scope, receive, send)
            return
        if self._sockets.total() >= bounds.sockets or self._sockets[address] >= bounds.per_address:
            await _answer(scope, send, 503, "")
            return
        pace = Pace(*bounds.messages)
        began: float | None = None

        async def paced() -> MutableMapping[str, Any]:
            nonlocal began
            if began is not None:  # the last message was parsed and handled since, without a pause
                took, began = time.thread_time() - began, None
                if took > bounds.costly_s:
                    _pace(self._visits, address, bounds.visits).after(1 + took / bounds.costly_s)
                    return {"type": "websocket.disconnect", "code": 1008}
                await asyncio.sleep(_pace(self._handling, address, bounds.handling).after(took))
            message = await receive()
            if message["type"] != "websocket.receive":
                return message
            if message.get("text") is not None:  # Streamlit reads bytes, and would complain in the log
                return {"type": "websocket.disconnect", "code": 1003}
            await asyncio.sleep(pace.after(1 + len(message.get("bytes") or b"") / bounds.small))
            began = time.thread_time()
            return message

        async def read(message: MutableMapping[str, Any]) -> None:
            # What nobody reads would pile up.
            async with asyncio.timeout(bounds.unread_s):
                await send(message)

        self._sockets[address] += 1
        try:
            await self.app(scope, paced, read)
        finally:
            _less(self._sockets, address, 1)

    async def _upload(self, scope: Scope, headers: dict[bytes, str], receive: Receive, send: Send) -> None:
        """Make room for a file before the first byte of it is read, and while it comes."""
        assert self.bounds is not None
        assert self.room is not None
        length, room = headers.get(b"content-length", ""), self.room
        if not (length.isascii() and length.isdecimal()) or len(length) > 15:
            await _answer(scope, send, 411, "The length of the file has to be said.")
            return
        session, size, came = scope["path"][len(UPLOADS) :].partition("/")[0], int(length), 0
        if not room.has(session, size):
            await _answer(scope, send, *NO_ROOM)
            return

        async def counted() -> MutableMapping[str, Any]:
            nonlocal came
            message = await receive()
            more = len(message.get("body", b""))
            if room.address(session) is None or not room.has(session, more):  # it may have ended meanwhile
                raise _NoRoom
            came += more
            room.coming[session] += more
            return message

        begun = False

        async def told(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(10.0 + size / self.bounds.upload_rate):
                await self._request(scope, counted, told)
        except (_NoRoom, TimeoutError) as error:
            refusal = NO_ROOM if isinstance(error, _NoRoom) else (408, "The file came too slowly.")
            if not begun:
                await _answer(scope, send, *refusal)
        finally:
            _less(room.coming, session, came)


def _pace(paces: dict[str, Pace], address: str, rate: tuple[float, float]) -> Pace:
    """The pace of an address; of those that were quiet lately nothing is kept where there are many."""
    if len(paces) > 1000 and address not in paces:
        for quiet in [name for name, pace in paces.items() if pace.full]:
            del paces[quiet]
    if address not in paces:
        paces[address] = Pace(*rate)
    return paces[address]


def _less(counted: Counter[str], key: str, by: int) -> None:
    counted[key] -= by
    if counted[key] <= 0:
        del counted[key]


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def _query(scope: Scope) -> list[tuple[str, str]]:
    try:
        return parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    except ValueError:
        return []


def _same(origin: str, host: str) -> bool:
    """Whether a page of that origin came from this host, port included."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc == host


def _is_literal(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _answer(
    scope: Scope, send: Send, status: int, sentence: str, headers: Collection[tuple[bytes, bytes]] = ()
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before it was accepted: 403
        return
    body = sentence.encode()
    head = [
        *HEADERS,
        *headers,
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
    ]
    head.append((b"content-length", str(len(body)).encode()))
    if status in (408, 411, 413, 429, 503):
        head.append((b"connection", b"close"))  # what is still being sent is not read
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def cookie_name(port: int) -> str:
    """Of the token's cookie; browsers send cookies to all ports of a host, so the name has the port."""
    return f"qmoe_token_{port}"


def new_token() -> str:
    """The token of this start: $QMOE_TOKEN, or one that nobody can guess."""
    return os.environ.get(TOKEN) or secrets.token_urlsafe(24)


def names(address: str, more: Collection[str] = ()) -> tuple[frozenset[str], bool]:
    """Names by which a lab that listens there may be asked, and whether any IP address is one too."""
    everywhere = address in WILDCARDS
    known = {*LOOPBACK, *(name.lower() for name in more)}
    known |= {socket.gethostname().lower()} if everywhere else {address.lower()}
    return frozenset(known), everywhere


def media_id(data: bytes, mimetype: str, filename: str | None = None) -> str:
    """The name of a file that pages play or offer: a hash of all of its content, its type and its name."""
    digest = hashlib.sha256()
    for part in (data, mimetype.encode(), b"" if filename is None else b"=" + filename.encode()):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def install(
    *,
    hosts: Collection[str],
    literals: bool = False,
    port: int | None = None,
    token: str | None = None,
    bounds: Bounds | None = None,
    announce: Callable[[], None] | None = None,
) -> None:
    """Put a `Guard` before the server that Streamlit is about to start; fields as there.

    Args:
        announce: called once the server listens, in place of Streamlit's own lines.

    Raises:
        AttributeError: this Streamlit is built otherwise, and the lab must not be served without its guard.
    """
    from starlette.formparsers import MultiPartParser
    from streamlit.runtime import memory_media_file_storage as media
    from streamlit.runtime import runtime as streamlit_runtime
    from streamlit.web import bootstrap

    from dashboard.compressed import Compressed
    from dashboard.downloads import Lingering

    server: Any = import_module("streamlit.web.server.starlette.starlette_server")
    make_app, settings = server.create_starlette_app, server._get_uvicorn_config_kwargs
    if not callable(media._calculate_file_id) or not hasattr(MultiPartParser, "spool_max_size"):
        raise AttributeError("Streamlit names media otherwise than the lab knows")

    def guarded(runtime: Any) -> Any:
        own = (None, 0) if bounds is None else (bounds.session_bytes, bounds.total_bytes)
        app = Compressed(make_app(runtime))
        return Guard(app, hosts, literals, port, token, bounds, room.install(runtime, *own))

    def bounded() -> dict[str, Any]:
        limits = {} if bounds is None else {"ws_max_size": bounds.frame}
        return {**settings(), **limits}

    server.create_starlette_app = guarded
    server._get_uvicorn_config_kwargs = bounded
    media._calculate_file_id = media_id
    streamlit_runtime.MediaFileManager = Lingering  # type: ignore[misc]
    MultiPartParser.spool_max_size = 1 << 30  # a recording is never written to a temporary file
    if announce is not None:
        bootstrap._print_url = lambda *_: announce()


def open_browser(address: str) -> None:
    """Open an address in the user's browser, beside what goes on."""
    from streamlit import cli_util

    threading.Thread(target=cli_util.open_browser, args=(address,), daemon=True).start()

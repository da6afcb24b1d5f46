"""Start the dashboard: `python -m dashboard.launch --server.port 8501`, from the folder above this one.

It is `streamlit run dashboard/app.py`, but what the first page needs (the experts and their compiled code) is
loaded while the browser is still on its way: about a second that nobody has to wait for.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO, cast

from streamlit import net_util, runtime
from streamlit.web import cli

from dashboard import gathered, guard, turns, watchdog
from qmoe_core.errors import ConfigError, UserError, safe
from qmoe_core.runtime import system

APP = Path(__file__).with_name("app.py")
PUBLIC = "--public"
HOST = "--host"
SWITCH_S = 1e-4
"""How long a page that is drawn may keep the interpreter of a public lab from its event loop, seconds. The
loop waits for it after every system call: with Python's 5 ms, three pages leave it no time to answer."""
LOGGED = 20_000
"""Characters that a public lab writes in a minute, at most, on standard output and on standard error."""


def warm() -> None:
    """Import what the first page draws with, and judge a sound once; whatever is wrong, the page will say."""
    import_module("dashboard.charts.decision")
    with suppress(UserError):
        judge()


def judge() -> None:
    """Judge a sound of the gallery with the default bundle.

    Raises:
        UserError: the bundle cannot be read.
    """
    hearing, state = import_module("dashboard.session.hearing"), import_module("dashboard.session.state")
    from qmoe_core import bundles, serve

    serve.classify(hearing.from_gallery(state.FIRST_SOUND).load(), bundles.load())


def _warm_beside() -> None:
    """Warm up without being in the server's way: once it listens, and giving way to it ten times as often.

    It has the browser's many small requests to answer meanwhile, and each waits for the interpreter.
    """
    while not runtime.exists():
        time.sleep(0.02)
    time.sleep(0.3)  # from there to listening
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 10)
    try:
        warm()
    finally:
        sys.setswitchinterval(usual)


class _Unread:
    """Standard output whose reader may be gone: Streamlit says that it stops, and then must stop.

    Args:
        stream: where it goes.
        a_minute: characters that are written in a minute, at most, so that no visitor fills the disk with
            complaints; None for any number.
    """

    def __init__(
        self, stream: TextIO, a_minute: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._most, self._clock = stream, a_minute, clock
        self._minute, self._written = 0, 0

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text if self._most is None else self._bounded(text, self._most))
        return len(text)

    def _bounded(self, text: str, most: int) -> str:
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute, self._written = minute, 0
        before, self._written = self._written, self._written + len(text)
        if self._written <= most:
            return text
        return "(what else there is in this minute is left out)\n" if before <= most else ""

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(arguments: Sequence[str]) -> None:
    """Run Streamlit in this process, with arguments such as `--server.port 8501`.

    Args:
        arguments: Streamlit's; `--public` for visitors; `--host NAME` for each name that the lab is asked by.

    Raises:
        ConfigError: nothing can listen at that address and port.
    """
    options, names, public = _ours(arguments)
    told = dict(pairwise(options))
    address, port = told.get("--server.address", ""), int(told.get("--server.port", 8501))
    check_free(address, port)
    hosts, literals = guard.names(address, names)
    token, bounds = guard.new_token(), None
    if public:
        os.environ["QMOE_PUBLIC"] = "1"  # read by dashboard.session.public, here and on the pages
        module = import_module("dashboard.session.public")
        module.open_visitors()
        options += module.LIMITS.streamlit
        token, bounds = None, guard.Bounds()
        turns.install(turns.Turns())
        gathered.install()
        sys.setswitchinterval(SWITCH_S)
        system.keep_memory_low()
    shown = "localhost" if address in guard.WILDCARDS else address
    shown = f"[{shown}]" if ":" in shown else shown
    where = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")

    def announce() -> None:
        print(f"The lab is at {where}", flush=True)
        if told.get("--server.headless") == "false":
            guard.open_browser(where)

    guard.install(
        hosts=hosts,
        literals=literals,
        port=None if public or names else port,  # a proxy has a port of its own
        token=token,
        bounds=bounds,
        announce=announce,
    )
    # Streamlit would ask a server far away for our address, and make everybody wait meanwhile, each time that
    # a website knocks.
    net_util.get_external_ip = lambda: None
    threading.Thread(target=_warm_beside, name="warm", daemon=True).start()
    watchdog.start(f"http://{shown}:{port}{guard.HEALTH}", judge)
    most = LOGGED if public else None
    sys.stdout, sys.stderr = (cast("TextIO", _Unread(stream, most)) for stream in (sys.stdout, sys.stderr))
    # The browser is opened here: only this address has the token.
    sys.argv = ["streamlit", "run", str(APP), *options, "--server.headless", "true"]
    sys.exit(cli.main())


def check_free(address: str, port: int) -> None:
    """Find out whether a server can listen there, before anything is started for it.

    Raises:
        ConfigError: it cannot; the message names what can be chosen instead.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as trial:
            if os.name == "posix":  # on Windows it would allow what is in use
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((address, port))
    except OSError as error:
        other = port + 1 if port < 65535 else 8501
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} is in use by another program, perhaps by a lab that runs already; "
                f"choose another one with --port, such as --port {other}"
            ) from None
        if error.errno == errno.EACCES:
            raise ConfigError(
                f"port {port} may not be used by this user; choose one above 1023 with --port"
            ) from None
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"--address {address} is not an address of this machine; accepted are localhost (this "
                "machine only), 0.0.0.0 (every network it is on), and its own addresses"
            ) from None
        raise ConfigError(
            f"nothing can listen at {address}, port {port}: {error.strerror or error}"
        ) from None


def said(error: UserError) -> int:
    """Say what is wrong in one line, as the command line does; gives the exit code."""
    print(f"qmoe: {safe(' '.join(str(error).split()))}", file=sys.stderr)
    return 2


def _ours(arguments: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """Streamlit's arguments, the names after `--host`, and whether the lab is for visitors."""
    options, names, rest = [], [], iter(arguments)
    for argument in rest:
        if argument == HOST:
            names.append(next(rest, ""))
        elif argument != PUBLIC:
            options.append(argument)
    return options, names, PUBLIC in arguments


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(said(error))

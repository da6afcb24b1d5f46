"""Start the dashboard: `python -m dashboard.launch --server.port 8501`, from the folder above this one.

It is `streamlit run dashboard/app.py`, but what the first page needs (the experts and their compiled code) is
loaded while the browser is still on its way: about a second that nobody has to wait for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO, cast

from streamlit import config, net_util, runtime
from streamlit.web import cli
from streamlit.web.server import server_util

from qmoe_core.errors import UserError

APP = Path(__file__).with_name("app.py")
PUBLIC = "--public"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def warm() -> None:
    """Import what the first page draws with, and judge a sound once; whatever is wrong, the page will say."""
    import_module("dashboard.charts.decision")
    hearing, state = import_module("dashboard.session.hearing"), import_module("dashboard.session.state")
    from qmoe_core import bundles, serve

    with suppress(UserError):
        serve.classify(hearing.from_gallery(state.FIRST_SOUND).load(), bundles.load())


def _warm_beside() -> None:
    """Warm up without being in the server's way: once it listens, and giving way to it ten times as often.

    It has the browser's many small requests to answer meanwhile, and each waits for the interpreter.
    """
    while not runtime.exists():
        time.sleep(0.02)
    time.sleep(0.3)  # from there to listening
    host = config.get_option("server.address") or "localhost"
    print(f"The lab is at {server_util.get_url(host)}", flush=True)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 10)
    try:
        warm()
    finally:
        sys.setswitchinterval(usual)


class _Unread:
    """Standard output whose reader may be gone: Streamlit says that it stops, and then must stop."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(arguments: Sequence[str]) -> None:
    """Run Streamlit in this process, with arguments such as `--server.port 8501`; `--public` for visitors."""
    options = [argument for argument in arguments if argument != PUBLIC]
    if PUBLIC in arguments:
        os.environ["QMOE_PUBLIC"] = "1"  # read by dashboard.session.public, here and on the pages
        public = import_module("dashboard.session.public")
        public.sweep()
        options += public.LIMITS.streamlit
    elif _address(options) in LOOPBACK:
        # A website whose name is made to mean this machine would be the page's own origin.
        options += [part for host in LOOPBACK for part in ("--server.allowedHosts", host)]
    # Streamlit would ask a server far away for our address, and make everybody wait meanwhile, each time that
    # a website knocks.
    net_util.get_external_ip = lambda: None
    threading.Thread(target=_warm_beside, name="warm", daemon=True).start()
    sys.stdout, sys.stderr = cast("TextIO", _Unread(sys.stdout)), cast("TextIO", _Unread(sys.stderr))
    sys.argv = ["streamlit", "run", str(APP), *options]
    sys.exit(cli.main())


def _address(options: Sequence[str]) -> str:
    """Where Streamlit is told to listen; empty where it is not told."""
    return dict(pairwise(options)).get("--server.address", "")


if __name__ == "__main__":
    main(sys.argv[1:])

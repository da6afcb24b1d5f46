"""A Streamlit server in a process of its own: the dashboard, or another app."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
TOKEN = secrets.token_urlsafe(24)
"""Of every lab that is started here; see `cookie`."""
START_S = 60.0
"""How long it may take on a busy machine until it answers."""


def cookie(address: str) -> dict[str, str]:
    """By which a lab's server knows its owner: name and value."""
    return {"name": f"qmoe_token_{urlsplit(address).port}", "value": TOKEN}


@contextmanager
def served(*app: str, **environment: str) -> Iterator[str]:
    """Start a server; gives its address, and ends it afterwards.

    Args:
        app: what Python is to run; the dashboard when there is nothing.
        environment: variables that it has beside ours.

    Raises:
        RuntimeError: it ended while starting, or does not answer; with what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *(app or ("-m", "dashboard.launch")), "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true"]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"QMOE_TOKEN": TOKEN} | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            if not _answers(server, address):
                log.seek(0)
                raise RuntimeError(f"the server does not answer (it ended: {server.poll()}): {log.read()}")
            yield address
        finally:
            server.terminate()
            server.wait(timeout=20)


def _answers(server: subprocess.Popen[str], address: str) -> bool:
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False

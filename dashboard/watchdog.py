"""systemd's watchdog (sd_notify(3)): told that the lab is well as long as it answers and judges a sound.

The unit deploy/qmoe-lab.service restarts a lab that has not said so for a while. Without systemd, which sets
$NOTIFY_SOCKET, nothing here runs.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException

SOCKET = "NOTIFY_SOCKET"
INTERVAL = "WATCHDOG_USEC"
UNTIL_READY_S = 0.2
"""Between two looks at a server that is starting."""

log = logging.getLogger(__name__)
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def start(health: str, judge: Callable[[], object]) -> None:
    """Watch the lab from a thread of its own, if systemd wants to know.

    Args:
        health: address that the server answers when it is well.
        judge: judges a sound; raises what is wrong.
    """
    if not os.environ.get(SOCKET):
        return
    # Half of the interval, as sd_watchdog_enabled(3) recommends; READY=1 is wanted without one too.
    every_s = int(os.environ.get(INTERVAL) or 0) / 2e6
    threading.Thread(target=_watch, args=(health, judge, every_s), name="watchdog", daemon=True).start()


def _watch(health: str, judge: Callable[[], object], every_s: float) -> None:
    while not answers(health):
        time.sleep(UNTIL_READY_S)
    notify("READY=1")
    while every_s:
        beat(health, judge)
        time.sleep(every_s)


def beat(health: str, judge: Callable[[], object]) -> None:
    """One look at the lab; systemd is told if it is well."""
    if not answers(health):
        log.warning("the lab does not answer %s", health)
        return
    try:
        judge()
    except Exception as error:
        log.warning("the lab gives no verdict: %s", error)
        return
    notify("WATCHDOG=1")


def answers(health: str) -> bool:
    """Whether the server answers an address within ten seconds."""
    try:
        _direct.open(health, timeout=10.0).close()
    except (OSError, HTTPException):
        return False
    return True


def notify(state: str) -> None:
    """Send a state such as `READY=1` to systemd; a socket that is gone is passed over."""
    address = os.environ.get(SOCKET, "")
    if address.startswith("@"):  # in Linux's abstract namespace
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), address)

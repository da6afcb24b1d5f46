"""What a browser session remembers of its live page: the session that listens, its source, its problems."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

from dashboard.components.microphone import Status
from dashboard.session import public
from qmoe_core.bundles import Bundle
from qmoe_core.errors import UserError
from qmoe_core.evaluation.conformal import Limits
from qmoe_core.live.detections import Rules
from qmoe_core.live.log import Log
from qmoe_core.live.pipeline import Pipeline
from qmoe_core.live.sessions import Session, registry
from qmoe_core.live.sources import HostSource, PushSource
from qmoe_core.routing.mixing import Settings
from qmoe_core.runtime.store import Store

LOG_FOLDER = "live"
"""In the store."""


@dataclass
class Live:
    """One page's listening.

    Attributes:
        session: the worker and its pipeline, which holds the log.
        browser: what the browser's microphone is handed to.
        status: how that microphone is.
        problem: a sentence about the last thing that could not be done; empty when all is well.
        shown_running: whether the page was last drawn as listening.
    """

    session: Session
    browser: PushSource
    status: Status = field(default_factory=Status)
    problem: str = ""
    hidden: bool = False
    shown_running: bool = False

    def __post_init__(self) -> None:
        # When the page's session is over, nobody looks: the registry stops what listens at its next round. It
        # is not asked to here, where any of its locks may be held.
        weakref.finalize(self, setattr, self.session, "patience", -1.0)

    @property
    def pipeline(self) -> Pipeline:
        return self.session.pipeline

    @property
    def log(self) -> Log:
        return self.pipeline.log

    @property
    def running(self) -> bool:
        return self.session.running

    def received(self, status: Status) -> None:
        """A packet of the browser's microphone came."""
        self.status, self.hidden = status, status.hidden
        if status.state in ("listening", "interrupted"):
            if self.pipeline.source is not self.browser:
                self.pipeline.source.close()
                self.pipeline.source = self.browser
            self._touch()
        elif self.pipeline.source is self.browser:
            self.stop()

    def seen(self) -> None:
        """The page was drawn: whoever listens for it goes on."""
        if self.running:
            self._touch()

    def start_host(self, device: str | None, rate: int | None) -> None:
        """Listen to a microphone of this machine."""
        self.stop()
        if public.LIMITS is not None:
            self.problem = public.MICROPHONE
            return
        try:
            self.pipeline.source = HostSource(device, rate)
        except UserError as error:
            self.problem = str(error)
            return
        self._touch()
        if self.problem:
            self.pipeline.source.close()

    def stop(self) -> None:
        """Listen no more; the log stays."""
        registry.stop(self.session)

    def keep(self, kept: bool) -> str:
        """Keep the log on disk, or not; a sentence where that cannot be done."""
        try:
            folder = Path(Store().root) / LOG_FOLDER if kept and public.LIMITS is None else None
            if folder != self.log.folder:
                self.log.keep(folder)
        except UserError as error:
            return str(error)
        return ""

    def _touch(self) -> None:
        try:
            most = None if public.LIMITS is None else public.LIMITS.live
            registry.touch(self.session, hidden=self.hidden, most=most)
            self.problem = ""
        except UserError as error:
            self.problem = str(error)


def mine(bundle: Bundle, settings: Settings, rules: Rules) -> Live:
    """This browser session's listening, made when it is first asked for; it follows the settings from now on.

    Raises:
        BundleError: the bundle was made with another embedder.
    """
    live: Live | None = st.session_state.get("live")
    if live is None or live.pipeline.bundle.digest != bundle.digest:
        if live is not None:
            live.stop()
        source = PushSource()
        session = Session(Pipeline(source, bundle, settings, rules), public.address())
        live = st.session_state.live = Live(session, source)
    live.pipeline.settings, live.pipeline.rules = settings, rules
    return live


def rules_of(threshold: float, own: Mapping[str, float], limits: Limits | None) -> Rules:
    """Rules with a threshold for all classes, and others for some."""
    return Rules(
        threshold=threshold,
        thresholds={label: value for label, value in own.items() if value != threshold},
        limits=limits,
    )

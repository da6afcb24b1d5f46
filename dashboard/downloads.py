"""What a download button promises is kept for a while after the page was drawn again.

Streamlit forgets a button's file as soon as the next run of any page has ended. Where pages are drawn often
(Live, a lab with many visitors), a button that was pressed in between would give nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from streamlit.runtime import media_file_manager
from streamlit.runtime.media_file_manager import MediaFileManager
from streamlit.runtime.media_file_storage import MediaFileKind

LINGER_S = 30.0
KEPT = "kept: "
"""How the places begin that references have which no page shows any more."""


class Lingering(MediaFileManager):
    """Keeps what can be downloaded for `LINGER_S` seconds longer; what a session had goes when it ends."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def add_deferred(
        self, data_callable: Any, mimetype: str | None, coordinates: str, *rest: Any, **more: Any
    ) -> str:
        session = media_file_manager._get_session_id()
        with self._lock:
            self._linger(session, self._files_by_session_and_coord[session].pop(coordinates, None))
        return super().add_deferred(data_callable, mimetype, coordinates, *rest, **more)

    def execute_deferred(self, file_id: str) -> str:
        url = super().execute_deferred(file_id)
        with self._lock:
            entry = self._deferred_callables.get(file_id)
            if entry and entry["session_id"] in self._files_by_session_and_coord:
                made = next((name for name in self._file_metadata if name in url), None)
                self._linger(entry["session_id"], made)
        return url

    def clear_session_refs(self, session_id: str | None = None) -> None:
        """With a session's id, it has ended; without one, its page is about to be drawn again."""
        session = session_id or media_file_manager._get_session_id()
        with self._lock:
            shown = dict(self._files_by_session_and_coord.get(session, {}))
        super().clear_session_refs(session)
        if session_id is not None:
            return
        with self._lock:
            for place, name in shown.items():
                if place.startswith(KEPT):
                    self._files_by_session_and_coord[session][place] = name
                else:
                    self._linger(session, name)

    def _linger(self, session: str, name: str | None) -> None:
        """Refers to a file for a while, and to others of the session no longer; the caller holds the lock."""
        places, now = self._files_by_session_and_coord[session], self.clock()
        for place in [p for p in places if p.startswith(KEPT) and float(p.split()[1]) <= now]:
            del places[place]
        stored = self._file_metadata.get(name) if name else None
        if name in self._deferred_callables or (stored and stored.kind == MediaFileKind.DOWNLOADABLE):
            places[f"{KEPT}{now + LINGER_S} {name}"] = str(name)

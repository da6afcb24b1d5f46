"""What a download button promises, while pages are drawn again and again."""

from __future__ import annotations

import pytest
from streamlit.runtime import media_file_manager
from streamlit.runtime.media_file_storage import MediaFileStorageError
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage

from dashboard import downloads
from dashboard.downloads import Lingering


class Lab:
    """Two sessions' pages, drawn as Streamlit draws them, on a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.session = 0.0, "ours"
        monkeypatch.setattr(media_file_manager, "_get_session_id", lambda: self.session)
        self.files = Lingering(MemoryMediaFileStorage("/media"))
        self.files.clock = lambda: self.now

    def drawn(self, session: str = "ours", *, fragment: bool = False) -> str:
        """A page with one button: the name under which the browser asks for its file."""
        self.session = session
        if not fragment:
            self.files.clear_session_refs()
        name = self.files.add_deferred(lambda: f"table of {session}", "text/csv", "0.1", file_name="a.csv")
        self.files.remove_orphaned_files()
        return name

    def ended(self, session: str) -> None:
        self.files.clear_session_refs(session)
        self.files.remove_orphaned_files()

    def pressed(self, name: str) -> str | None:
        """The file's name in the server, None when there is no such file."""
        try:
            url = self.files.execute_deferred(name)
        except MediaFileStorageError:
            return None
        return url.removeprefix("/media/")


@pytest.mark.parametrize("fragment", [False, True])
def test_a_button_works_while_the_page_is_drawn_again(
    monkeypatch: pytest.MonkeyPatch, fragment: bool
) -> None:
    lab = Lab(monkeypatch)
    first = lab.drawn()
    for _ in range(3):
        lab.now += downloads.LINGER_S / 4
        lab.drawn(fragment=fragment)
        lab.drawn("another")
    made = lab.pressed(first)
    assert made is not None
    for _ in range(3):
        lab.now += downloads.LINGER_S / 4
        lab.drawn(fragment=fragment)
        lab.drawn("another")
    stored = lab.files.read_file(made)
    assert stored is not None
    assert stored.content == b"table of ours"


@pytest.mark.parametrize("fragment", [False, True])
def test_nothing_is_kept_for_long(monkeypatch: pytest.MonkeyPatch, fragment: bool) -> None:
    lab = Lab(monkeypatch)
    first = lab.drawn()
    made = lab.pressed(first)
    assert made is not None
    for _ in range(8):
        lab.now += downloads.LINGER_S / 2
        lab.drawn(fragment=fragment)
    assert lab.pressed(first) is None
    assert lab.files.read_file(made) is None
    assert len(lab.files._deferred_callables) <= 3


def test_with_the_session_all_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(monkeypatch)
    names = [lab.drawn(), lab.drawn()]
    made = lab.pressed(names[1])
    assert made is not None
    lab.ended("ours")
    lab.ended("ours")  # a generated file goes at the second such moment
    assert [lab.pressed(name) for name in names] == [None, None]
    assert lab.files.read_file(made) is None

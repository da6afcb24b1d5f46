"""A folder is replaced in one step; where that cannot be, what was there comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qmoe_core.paper.report import writing
from qmoe_core.paper.report.document import ReportDocument
from qmoe_core.runtime import files, system
from qmoe_core.runtime.store import unfinished


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "text").write_text(text)
    return path


def test_the_older_folder_goes(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for text in ("first", "second"):
        files.put_in_place(folder(unfinished(place), text), place)
        assert (place / "text").read_text() == text
        assert list(tmp_path.iterdir()) == [place]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems swap in two steps")
def test_it_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path / "place", "first")
    work = folder(unfinished(place), "second")
    monkeypatch.setattr(Path, "rename", None)  # one of two steps
    files.put_in_place(work, place)
    assert (place / "text").read_text() == "second"


def test_what_was_there_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where folders cannot be swapped in one step."""
    place = folder(tmp_path / "place", "first")
    work = folder(unfinished(place), "second")
    monkeypatch.setattr(system, "swap", lambda one, other: False)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self == work:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError):
        files.put_in_place(work, place)
    assert (place / "text").read_text() == "first"


def test_a_report_clears_away_what_a_killed_one_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = "import sys; from qmoe_core.runtime.store import unfinished as u; from pathlib import Path as P; "
    made += "u(P(sys.argv[1])).mkdir()"
    subprocess.run([sys.executable, "-c", made, out], check=True, cwd=Path(__file__).parents[2])
    assert len(list(tmp_path.glob(".out-*"))) == 1
    writing.write(ReportDocument("A report", (), ()), out)
    assert list(tmp_path.iterdir()) == [out]


def test_a_link_to_a_report_stays_one(tmp_path: Path) -> None:
    newest, place = tmp_path / "newest", tmp_path / "place"
    newest.symlink_to(place)
    for title in ("first", "second"):
        writing.write(ReportDocument(title, (), ()), newest)
        assert newest.is_symlink()
        assert (place / writing.TEXT).read_text().startswith(f"# {title}")
    assert sorted(tmp_path.iterdir()) == [newest, place]

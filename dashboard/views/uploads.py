"""Listen with many files: ZIP archives are unpacked, and one table has a row for every file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import streamlit as st

from dashboard.session import hearing, public
from dashboard.session.hearing import Sound
from dashboard.views import widgets, words
from qmoe_core.audio import containers, decode
from qmoe_core.decision import Classification
from qmoe_core.errors import AudioError

MOST_FILES = 500
"""Of an archive that are judged."""
OPENED = "opened_file"
"""Key of the widget that says which file is shown."""
_TABLE = "files_table"


def sounds(files: Sequence[Any]) -> list[Sound]:
    """The recordings that were uploaded, those within ZIP archives included; of visitors, so many at once.

    Args:
        files: as `st.file_uploader` gives them.
    """
    most = MOST_FILES if public.LIMITS is None else public.LIMITS.files
    memory = st.session_state.setdefault("unpacked", {})
    found: list[Sound] = []
    for file in files:
        if not file.name.lower().endswith(".zip"):
            found.append(hearing.from_upload(file))
            continue
        if file.file_id not in memory:
            memory[file.file_id] = _unpacked(file, most)
        members, notes = memory[file.file_id]
        found += [_member(name, data, file.name) for name, data in members]
        for note in notes:
            widgets.warning(note)
    for gone in memory.keys() - {file.file_id for file in files}:
        del memory[gone]
    return found if public.LIMITS is None else found[:most]


def _unpacked(file: Any, most: int) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Names and contents of the recordings in an archive, and what there is to say of it."""
    members: list[tuple[str, bytes]] = []
    notes: list[str] = []
    try:
        for name, data in recordings(file, most):
            members.append((name, data))
    except AudioError as error:
        notes.append(str(error))
    if not members and not notes:
        notes.append(f"{decode.display_name(file.name)} holds no recordings.")
    return members, notes


def recordings(file: Any, most: int) -> Iterator[tuple[str, bytes]]:
    """Recordings of a ZIP archive, until they are too many or too large together.

    Raises:
        AudioError: it is damaged or locked, or holds more than is taken; what came before is good.
    """
    archive_name, left = decode.display_name(file.name), decode.MAX_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(file.getvalue())) as archive:
            taken = 0
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                place = PurePosixPath(info.filename)
                hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
                if info.is_dir() or hidden or place.suffix.lower() not in containers.SUFFIXES:
                    continue
                if taken == most:
                    raise AudioError(f"{archive_name}: the first {most} recordings in it are taken.")
                with archive.open(info) as member:
                    data = member.read(left + 1)
                if len(data) > left:
                    raise AudioError(
                        f"{archive_name}: unpacked, it is larger than {decode.MAX_BYTES >> 20} MB; the first "
                        f"{taken} recordings in it are taken."
                    )
                left -= len(data)
                taken += 1
                yield info.filename, data
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise AudioError(f"{archive_name} cannot be unpacked ({error}); give the recordings in it.") from None


def _member(name: str, data: bytes, archive: str) -> Sound:
    shown = decode.display_name(name)
    return Sound(
        key=hashlib.sha256(data).hexdigest(),
        name=shown,
        origin=f"from {decode.display_name(archive)}",
        load=partial(hearing.opened, data, shown),
        playable=data,
    )


def table(sounds: Sequence[Sound], results: Sequence[Classification | None]) -> None:
    """A row for each file, sortable; a chosen row is the one that is shown below.

    Args:
        sounds: that were given; results: of each, None of one that could not be judged.
    """
    rows = [
        {
            "file": sound.name,
            "answer": _answer(result),
            "probability": result.whole.probability if result else None,
            "doubt": result.whole.doubt if result else None,
            "prediction set": ", ".join(map(words.readable, (result and result.prediction_set) or ())),
            "length, s": round(result.duration_s, 1) if result else None,
            "recorded": result.recorded.isoformat(" ") if result and result.recorded else "",
        }
        for sound, result in zip(sounds, results, strict=True)
    ]
    columns = {"probability": st.column_config.NumberColumn(format="percent")}
    st.dataframe(
        rows,
        hide_index=True,
        column_config=columns,
        height=min(36 * (len(rows) + 1), 400),
        key=_TABLE,
        on_select=partial(_open, [result is not None for result in results]),
        selection_mode="single-row",
    )


def _answer(result: Classification | None) -> str:
    if result is None:
        return "not judged: see above"
    label = words.readable(result.whole.label)
    return f"no answer ({label})" if result.abstained else label


def _open(judged: Sequence[bool]) -> None:
    """A row was chosen: its place among those that could be judged is what the widget below shows."""
    with contextlib.suppress(KeyError, IndexError):
        row = st.session_state[_TABLE]["selection"]["rows"][0]
        if judged[row]:
            st.session_state[OPENED] = sum(judged[:row])

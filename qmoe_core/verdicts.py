"""Verdicts as other programs read them: CSV, JSON, selection tables of Raven, labels of Audacity, and text.

One recording's verdict is a `Verdict`; a `Format` writes one of them, or many one after the other.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from qmoe_core.audio.fitness import NothingToJudge
from qmoe_core.decision import Classification
from qmoe_core.errors import safe
from qmoe_core.runtime.spreadsheets import defused

_LEARNED_HZ = 11_025.0
"""Upper edge of selections: the classifier hears nothing above."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A window's verdict; times in seconds from the recording's start, uncertainties in nats."""

    start_s: float
    end_s: float
    label: str
    probability: float
    total: float
    aleatoric: float
    epistemic: float


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of one input.

    Attributes:
        path: as it was given, or found in a folder that was given.
        error: why it could not be read, or None; reason: why it was read and not judged, or None.
        duration_s: seconds, 0 where it was not read; recorded: when it began, ISO 8601, or None.
        parts: a verdict for each window. text: as people read it. document: as `--json` prints it, encoded.
    """

    path: str
    error: str | None = None
    reason: str | None = None
    duration_s: float = 0.0
    recorded: str | None = None
    parts: tuple[Part, ...] = ()
    text: str = ""
    document: msgspec.Raw = msgspec.Raw(b"null")


def judged(path: str, result: Classification, kind: str, text: str = "") -> Verdict:
    """The verdict on a recording, with what the format `kind` needs of it; `text` is for people."""
    parts = tuple(
        Part(
            window.start_s,
            window.end_s,
            window.label,
            window.probability,
            window.uncertainty.total,
            window.uncertainty.aleatoric,
            window.uncertainty.epistemic,
        )
        for window in result.windows
    )
    verdict = Verdict(
        shown(path),
        duration_s=result.duration_s,
        recorded=result.recorded.isoformat() if result.recorded else None,
        parts=parts if kind in ("csv", "raven", "audacity") else (),
        text=text,
    )
    if kind != "json":
        return verdict
    whole = result.to_json(lambda window: msgspec.Raw(msgspec.json.encode(window)))
    return msgspec.structs.replace(verdict, document=_document(verdict, whole))


def refused(path: str, error: Exception, kind: str) -> Verdict:
    """The verdict on what could not be read, or not be judged (`NothingToJudge`)."""
    sentence = safe(str(error))
    if not isinstance(error, NothingToJudge):
        verdict, more = Verdict(shown(path), error=sentence), {"abstained": True}
    else:
        verdict = Verdict(shown(path), reason=sentence, text=sentence, duration_s=error.duration_s)
        more = {"duration_s": error.duration_s, "abstained": True, "fitness": error.fitness.to_json()}
    if kind != "json":
        return verdict
    return msgspec.structs.replace(verdict, document=_document(verdict, {"prediction": None, **more}))


def shown(path: str) -> str:
    """A path as it may stand in a document: bytes that are no UTF-8 are escaped.

    >>> shown("a" + chr(0xDCFF) + ".wav")
    'a\\\\xff.wav'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _document(verdict: Verdict, more: dict[str, object]) -> msgspec.Raw:
    said = {"path": verdict.path, "error": verdict.error, "reason": verdict.reason}
    return msgspec.Raw(msgspec.json.encode(said | more))


@dataclass(frozen=True)
class Format:
    """How verdicts are written.

    Attributes:
        suffix: of the name of a recording's own file.
        several: whether one file may hold the verdicts on several recordings.
    """

    suffix: str
    several: bool = True

    def written(self, verdicts: Iterable[Verdict]) -> Iterator[str]:
        """The file, in pieces: the first without a verdict, then one for each, then the end."""
        raise NotImplementedError


class _Text(Format):
    def written(self, verdicts: Iterable[Verdict]) -> Iterator[str]:
        for verdict in verdicts:
            yield f"{verdict.text}\n" if verdict.text else f"{verdict.path}: {verdict.error}\n"


class _Json(Format):
    """A list with an object for every input, an input a line."""

    def written(self, verdicts: Iterable[Verdict]) -> Iterator[str]:
        begin = "[\n"
        for verdict in verdicts:
            yield begin + bytes(verdict.document).decode()
            begin = ",\n"
        yield "\n]\n" if begin != "[\n" else "[]\n"


_COLUMNS = (
    *("path", "start_s", "end_s", "start", "end", "label", "probability"),
    *("total", "aleatoric", "epistemic", "error", "reason"),
)


class _Csv(Format):
    """A row a window, with times of day; a row for each input that could not be judged."""

    def written(self, verdicts: Iterable[Verdict]) -> Iterator[str]:
        yield _separated([_COLUMNS])
        for verdict in verdicts:
            if not verdict.parts:
                yield _separated([(verdict.path, *[""] * 9, verdict.error or "", verdict.reason or "")])
            yield _separated(
                (
                    verdict.path,
                    f"{part.start_s:.6f}",
                    f"{part.end_s:.6f}",
                    _at(verdict.recorded, part.start_s),
                    _at(verdict.recorded, part.end_s),
                    part.label,
                    *(f"{value:.6g}" for value in (part.probability, part.total, part.aleatoric)),
                    f"{part.epistemic:.6g}",
                    "",
                    "",
                )
                for part in verdict.parts
            )


_RAVEN = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Begin Path", "File Offset (s)", "Begin Date Time", "Annotation", "Score"),
)


class _Raven(Format):
    """A selection table of Raven; of several recordings, times count from the start of the first.

    Raven opens several sound files as one sequence; `File Offset (s)` is the time within each.
    """

    def written(self, verdicts: Iterable[Verdict]) -> Iterator[str]:
        yield _separated([_RAVEN], "\t")
        number, before_s = 0, 0.0
        for verdict in verdicts:
            rows = []
            for part in verdict.parts:
                number += 1
                rows.append(
                    (
                        *(str(number), "Spectrogram 1", "1"),
                        *(f"{before_s + part.start_s:.6f}", f"{before_s + part.end_s:.6f}"),
                        *("0.0", f"{_LEARNED_HZ:.1f}", _one_line(verdict.path), f"{part.start_s:.6f}"),
                        *(_at(verdict.recorded, part.start_s), _one_line(part.label)),
                        f"{part.probability:.6f}",
                    )
                )
            yield _separated(rows, "\t")
            before_s += verdict.duration_s


class _Audacity(Format):
    """A label track of Audacity: start, end and text, separated by tabs."""

    def written(self, verdicts: Iterable[Verdict]) -> Iterator[str]:
        for verdict in verdicts:
            yield "".join(
                f"{part.start_s:.6f}\t{part.end_s:.6f}\t{_one_line(part.label)} {part.probability:.2f}\n"
                for part in verdict.parts
            )


FORMATS: dict[str, Format] = {
    "table": _Text(".txt"),
    "json": _Json(".json"),
    "csv": _Csv(".csv"),
    "raven": _Raven(".selections.txt"),
    "audacity": _Audacity(".labels.txt", several=False),
}
"""By name, as `qmoe classify --format` takes it."""


def _at(recorded: str | None, seconds: float) -> str:
    """The time of day so many seconds after a recording's start; empty where that is not known."""
    if recorded is None:
        return ""
    return (datetime.fromisoformat(recorded) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def _separated(rows: Iterable[Iterable[str]], delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows([map(defused, row) for row in rows])
    return out.getvalue()


def _one_line(text: str) -> str:
    return " ".join(text.split())

"""Takes: sounds that a person collects in the lab to train on, in a folder with a table.

`takes.json` lists them and, for undo, the lists before; `sounds/` holds every sound once, under the SHA-256
of its content. A change writes sounds first and then the table, in one step: a lab that is stopped in between
has the takes of before. What no list names any more is removed. Takes cut from one recording share its name,
so that folds keep them on one side.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
import soundfile
from filelock import FileLock

from qmoe_core.audio import containers, decode
from qmoe_core.config import Config, EvaluationConfig, ExpertConfig
from qmoe_core.datasets.manifest import DatasetClip, Manifest, Scan, check
from qmoe_core.errors import AudioError, DatasetError
from qmoe_core.experts.spec import NAMES
from qmoe_core.numbers import listed
from qmoe_core.runtime import typed
from qmoe_core.runtime.files import write_whole
from qmoe_core.runtime.requests import Train

FOLDER = "takes"
"""Of the folder, and so of the dataset."""
TABLE, SOUNDS = "takes.json", "sounds"
LEAST = 5
"""Takes of a class, below which figures say little."""
FOLDS = 3
MOST_UNDONE = 20
MOST_CHARACTERS = 60
"""Of a class's name."""
PIECE_S = decode.WINDOW_S
EXPERT = ExpertConfig(hidden=(128, 64), epochs=40)
"""For few takes: chosen on ESC-10 with five takes of each class, where (640, 320) gave F1 .01 more, and took
three times as long."""


class Take(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sound.

    Attributes:
        id: of this take; sound: its file in `sounds/`; name: as it came; seconds: how long it is.
        label: its class, empty while nobody said one.
        recording: what it was cut from: the same for all takes of one recording.
    """

    id: str
    sound: str
    name: str
    label: str
    recording: str
    seconds: float


class _Table(msgspec.Struct, frozen=True):
    takes: tuple[Take, ...] = ()
    before: tuple[tuple[Take, ...], ...] = ()


class Given(msgspec.Struct, frozen=True):
    """A sound to add: a file's bytes, its name and class; `recording`: of what it is a part, if known."""

    data: bytes
    name: str
    label: str = ""
    recording: str = ""


class Takes:
    """The takes in a folder, which is made when the first comes; several sessions may change it.

    Args:
        root: the folder.
        most_bytes: of sounds that it may hold, those for undo included; longest_s: of one.
    """

    def __init__(self, root: Path, most_bytes: int | None = None, longest_s: float = float("inf")) -> None:
        self.root, self.most_bytes, self.longest_s = root, most_bytes, longest_s

    @property
    def listed(self) -> tuple[Take, ...]:
        """All takes, the oldest first.

        Raises:
            DatasetError: the table is damaged.
        """
        return _read(self.root).takes

    @property
    def undoable(self) -> bool:
        """Whether there is a change to undo."""
        return bool(_read(self.root).before)

    def path(self, take: Take) -> Path:
        """A take's file."""
        return self.root / SOUNDS / take.sound

    def add(self, given: Iterable[Given]) -> list[str]:
        """Add sounds, in one step; gives a sentence for each that cannot be used or is there already.

        Raises:
            DatasetError: the folder cannot be written, or is full.
        """
        known = {(take.sound, take.label) for take in self.listed}
        new: list[Take] = []
        contents: dict[str, bytes] = {}
        said: list[str] = []
        for one in given:
            try:
                take = _take(one, self.longest_s)
            except (AudioError, DatasetError) as error:
                said.append(str(error))
                continue
            if (take.sound, take.label) in known:
                said.append(f"{take.name} is there already.")
                continue
            known.add((take.sound, take.label))
            new.append(take)
            contents[take.sound] = one.data
        if new:
            self._change(lambda takes: (*takes, *new), contents)
        return said

    def label(self, ids: Iterable[str], label: str) -> None:
        """Give takes another class; empty takes it away.

        Raises:
            DatasetError: the name cannot be one, or the folder cannot be written.
        """
        chosen, label = set(ids), label and class_name(label)
        self._change(
            lambda takes: tuple(
                msgspec.structs.replace(take, label=label) if take.id in chosen else take for take in takes
            )
        )

    def delete(self, ids: Iterable[str]) -> None:
        """Take some out; undo brings them back.

        Raises:
            DatasetError: the folder cannot be written.
        """
        chosen = set(ids)
        self._change(lambda takes: tuple(take for take in takes if take.id not in chosen))

    def cut(self, name: str, parts: Sequence[tuple[float, float]]) -> None:
        """Put parts of a take in its place.

        Args:
            name: the take's id; parts: of it, from second to second.

        Raises:
            AudioError: it cannot be decoded.
            DatasetError: there is no such take, a part is empty, or the folder cannot be written.
        """
        whole = next((take for take in self.listed if take.id == name), None)
        if whole is None:
            raise DatasetError("This take is not there any more.")
        contents: dict[str, bytes] = {}
        pieces: list[Take] = []
        for data, start_s, end_s in _cut(self.path(whole), parts):
            sound = f"{hashlib.sha256(data).hexdigest()}.flac"
            stem = PurePosixPath(whole.name).stem.partition(" from ")[0]
            contents[sound] = data
            pieces.append(
                msgspec.structs.replace(
                    whole,
                    id=_new_id(),
                    sound=sound,
                    name=f"{stem} from {start_s:.1f} s.flac",
                    seconds=end_s - start_s,
                )
            )
        self._change(
            lambda takes: tuple(new for take in takes for new in (pieces if take.id == name else [take])),
            contents,
        )

    def undo(self) -> None:
        """Make the last change undone.

        Raises:
            DatasetError: the folder cannot be written.
        """
        with self._locked():
            table = _read(self.root)
            if table.before:
                self._write(_Table(table.before[-1], table.before[:-1]), {})

    def _change(
        self, change: Callable[[tuple[Take, ...]], tuple[Take, ...]], contents: dict[str, bytes] | None = None
    ) -> None:
        with self._locked():
            table = _read(self.root)
            takes = change(table.takes)
            if takes != table.takes:
                before = (*table.before, table.takes)[-MOST_UNDONE:]
                self._write(_Table(takes, before), contents or {})

    @contextlib.contextmanager
    def _locked(self):
        try:
            (self.root / SOUNDS).mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".lock"):
                yield
        except OSError as error:
            raise DatasetError(
                f"{self.root}: takes cannot be kept there ({error.strerror or error})"
            ) from None

    def _write(self, table: _Table, contents: dict[str, bytes]) -> None:
        """Sounds first, then the table, then what no list names goes."""
        sounds = self.root / SOUNDS
        held = {path.name: path.stat().st_size for path in sounds.iterdir()}
        size = sum(held.values()) + sum(len(data) for name, data in contents.items() if name not in held)
        if self.most_bytes is not None and contents and size > self.most_bytes:
            raise DatasetError(
                f"All takes together are larger than {self.most_bytes >> 20} MB, the most that this lab "
                "keeps for a visitor; give shorter ones."
            )
        for name, data in contents.items():
            if name not in held:
                write_whole(sounds / name, data)
        write_whole(self.root / TABLE, msgspec.json.encode(table))
        named = {take.sound for takes in (table.takes, *table.before) for take in takes}
        for name in held.keys() - named:
            (sounds / name).unlink(missing_ok=True)


def class_name(text: str) -> str:
    """A class's name as it is kept.

    Raises:
        DatasetError: it is empty, too long, or cannot be shown.
    """
    name = " ".join(text.split())
    if not name or len(name) > MOST_CHARACTERS or not name.isprintable() or name.startswith("."):
        raise DatasetError(f"A class has a name of 1 to {MOST_CHARACTERS} characters that can be shown")
    return name


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _take(given: Given, longest_s: float) -> Take:
    """A sound as a take.

    Raises:
        AudioError: it is no sound. DatasetError: the class's name cannot be one.
    """
    name = decode.display_name(given.name)
    with decode.open_recording(given.data, name=name, longest_s=longest_s) as recording:
        for _ in recording.blocks():
            pass
        seconds = recording.duration_s
    digest = hashlib.sha256(given.data).hexdigest()
    suffix = PurePosixPath(name).suffix.lower()
    return Take(
        id=_new_id(),
        sound=digest + (suffix if suffix in containers.SUFFIXES else ".wav"),
        name=name,
        label=given.label and class_name(given.label),
        recording=given.recording or f"{name} {digest[:6]}",
        seconds=seconds,
    )


def _cut(path: Path, parts: Sequence[tuple[float, float]]) -> list[tuple[bytes, float, float]]:
    """Parts of a recording as FLAC files of 16 bits, mono, at its own rate; each with where it lies, s."""
    with decode.open_recording(path) as recording:
        rate = recording.source_rate_hz
    samples, made = decode.load(path, rate=rate).samples, []
    for start_s, end_s in parts:
        first, last = (min(max(round(second * rate), 0), len(samples)) for second in (start_s, end_s))
        if last <= first:
            raise DatasetError(f"From {start_s:.1f} to {end_s:.1f} s there is nothing to keep.")
        file = io.BytesIO()
        part = np.clip(samples[first:last], -1.0, 1.0)
        soundfile.write(file, part, rate, format="FLAC", subtype="PCM_16")
        made.append((file.getvalue(), first / rate, last / rate))
    return made


def pieces(seconds: float) -> list[tuple[float, float]]:
    """A recording in parts of 5 s; a rest below a second goes to the last.

    >>> pieces(12.0)
    [(0.0, 5.0), (5.0, 10.0), (10.0, 12.0)]
    >>> pieces(10.4)
    [(0.0, 5.0), (5.0, 10.4)]
    """
    starts = [float(start) for start in np.arange(0.0, max(seconds - 1.0, 0.1), PIECE_S)]
    return list(zip(starts, [*starts[1:], seconds], strict=True))


def _read(root: Path) -> _Table:
    try:
        return typed.decode((root / TABLE).read_bytes(), _Table)
    except FileNotFoundError:
        return _Table()
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise DatasetError(f"{root / TABLE}: cannot be read as a list of takes ({error})") from None


def matches(root: Path) -> bool:
    """Whether a folder holds takes."""
    return (root / TABLE).is_file()


def scan(root: Path) -> Scan:
    """Reads a folder of takes: those that have a class.

    Raises:
        DatasetError: the table is damaged.
    """
    takes = [take for take in _read(root).takes if take.label]
    classes = tuple(sorted({take.label for take in takes}))
    entries = tuple(
        DatasetClip(
            root / SOUNDS / PurePosixPath(take.sound).name,
            f"{take.label}/{take.id}-{take.name}",
            classes.index(take.label),
            None,
            take.recording,
        )
        for take in sorted(takes, key=lambda take: (take.label, take.id))
    )
    return Scan(Manifest(root.name, root, classes, entries), tuple(check(entries, classes, TABLE)))


def counted(takes: Iterable[Take]) -> dict[str, tuple[int, int]]:
    """Takes and recordings of each class, in the order of their names."""
    every = [take for take in takes if take.label]
    number = Counter(take.label for take in every)
    return {
        label: (number[label], len({take.recording for take in every if take.label == label}))
        for label in sorted(number)
    }


def concerns(takes: Iterable[Take]) -> list[str]:
    """What makes the figures of a training on these takes doubtful, a sentence each."""
    classes = counted(takes)
    said = []
    if few := [name for name, (n, _) in classes.items() if n < LEAST]:
        said.append(f"Fewer than {LEAST} takes of {listed(few)}: figures from so few say little.")
    if single := [name for name, (n, recordings) in classes.items() if recordings == 1 and n > 1]:
        said.append(
            f"All takes of {listed(single)} are of one recording: parts of it would be in training and in "
            "test, and F1 would come out too high. Record it again, at another place or time."
        )
    return said


def request(root: Path, takes: Sequence[Take], embedder: str, bundle: str) -> Train:
    """A training of all formats on takes, with the embedder as it is and folds that keep recordings together.

    Args:
        root: their folder; bundle: name of the bundle to write.

    Raises:
        DatasetError: there are not two classes with two takes each.
    """
    classes = counted(takes)
    lacking = [name for name, (n, _) in classes.items() if n < 2]
    if len(classes) < 2 or lacking:
        what = f" ({listed(lacking)} has one)" if len(classes) > 1 else ""
        raise DatasetError(f"Training needs two classes or more, with two takes or more of each{what}")
    recordings = min(n for _, n in classes.values())
    fewest = min(n for n, _ in classes.values())
    grouped = recordings > 1
    evaluation = EvaluationConfig(
        protocol="grouped" if grouped else "random",
        selection="setting",
        folds=min(FOLDS, recordings if grouped else fewest),
    )
    return Train(
        dataset=str(root),
        embedder=embedder,
        experts=NAMES,
        config=Config(expert=EXPERT, evaluation=evaluation),
        bundle=bundle,
        workers=1,
    )

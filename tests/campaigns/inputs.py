"""What people and passers-by may hand to the lab, and the parts of it that take it.

A target has a few good inputs and a function that takes one. Mutants of the good ones are made from a number,
so that whatever fails can be made again.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import itertools
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import soundfile

from qmoe_core import bundles, config, datasets, engine, serve
from qmoe_core.audio import decode, fitness, synth
from qmoe_core.bundles import export
from qmoe_core.datasets import imported
from qmoe_core.errors import UserError
from qmoe_core.live.detections import Rules
from qmoe_core.live.terminal import Listening
from qmoe_core.runtime.store import Store
from tests.audio import phones

NOISE = (b"", b"\x00" * 64, b"\xff" * 64, b"NaN", b"inf", b"-1", b"1e999", b"\r\n", b"../../x", "‮".encode())


@dataclass(frozen=True)
class Target:
    """Something that takes bytes from outside; whatever it refuses it refuses with one of `refuses`."""

    good: Callable[[], list[bytes]]
    take: Callable[[bytes, Path], object]
    refuses: tuple[type[Exception], ...] = (UserError,)


def mutant(good: list[bytes], number: int) -> bytes:
    """One of the good inputs after a few accidents; the number decides which. Every tenth is noise alone."""
    rng = np.random.default_rng(number)
    if number % 10 == 9:
        return rng.bytes(int(rng.integers(0, 4096)))
    data = bytearray(good[int(rng.integers(len(good)))])
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(data) + 1))
        # Headers decide most, so every second accident happens among the first bytes.
        if rng.random() < 0.5:
            at = min(at, int(rng.integers(128)))
        size = int(rng.integers(1, 1 + max(1, min(len(data) - at, int(2 ** rng.integers(12))))))
        match int(rng.integers(7)):
            case 0 if at < len(data):
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at : at + size] = rng.bytes(size)
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                del data[at:]
            case 5:
                data[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])).to_bytes(4, "little")
            case _:
                data[at:at] = NOISE[int(rng.integers(len(NOISE)))]
    return bytes(data)


def sounds() -> list[bytes]:
    """0.3 s of rain in every format that is accepted, and in odd ones."""
    rain, found = synth.render("rain")[:6_600], []
    two = np.stack([rain, -rain], axis=1)
    for samples, rate, kind, subtype in (
        (rain, 22_050, "WAV", "PCM_16"),
        (two, 44_100, "WAV", "FLOAT"),
        (two, 24_000, "WAV", "PCM_24"),
        (rain, 192_000, "WAV", "DOUBLE"),
        (rain, 22_050, "RF64", "PCM_16"),
        (rain, 22_050, "AIFF", "PCM_16"),
        (rain, 22_050, "AU", "PCM_16"),
        (rain, 22_050, "CAF", "PCM_16"),
        (rain, 22_050, "FLAC", "PCM_16"),
        (two, 44_100, "OGG", "VORBIS"),
        (rain, 48_000, "OGG", "OPUS"),
        (rain, 22_050, "MP3", "MPEG_LAYER_III"),
    ):
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format=kind, subtype=subtype)
        found.append(file.getvalue())
    return found


def phone_sounds() -> list[bytes]:
    """0.4 s of rain in the containers that phones, browsers and cameras write."""
    rain = synth.render("rain")[:8_820]
    return [phones.encoded(rain, decode.SAMPLE_RATE, *container) for container in phones.CONTAINERS]


def judge(data: bytes, _: Path) -> None:
    clip = decode.load(data, name="mutant")
    whole = bundles.load()
    try:
        result = serve.classify(
            decode.from_samples(clip.samples[: 20 * decode.SAMPLE_RATE], decode.SAMPLE_RATE), whole
        )
    except fitness.NothingToJudge:  # what was read is silent, or of a telephone
        return
    assert 0.0 <= result.whole.probability <= 1.0


@functools.cache
def carried() -> list[bytes]:
    with tempfile.TemporaryDirectory() as home:
        return [
            export.export_packed(bundles.load(), Path(home) / "x", experts=experts).read_bytes()
            for experts in (("bitnet",), ("q4", "popcount"))
        ]


def use_bundle(data: bytes, home: Path) -> None:
    (home / "mutant.qmoe").write_bytes(data)
    found = bundles.load(home / "mutant.qmoe")
    found.verify()
    assert found.dataset is None or len(found.dataset.labels)
    found.outputs(np.zeros((1, found.manifest.dim), np.float32)).all()


@functools.cache
def members() -> list[bytes]:
    """The files of a bundle one by one, each after its name and a zero byte."""
    with zipfile.ZipFile(io.BytesIO(carried()[0])) as archive:
        return [name.encode() + b"\0" + archive.read(name) for name in archive.namelist()]


def use_resealed(data: bytes, home: Path) -> None:
    """A bundle one of whose files was tampered with by somebody who made the checksums fit."""
    name, _, content = data.partition(b"\0")
    files = {name.decode(): content for name, _, content in (good.partition(b"\0") for good in members())}
    files[name.decode(errors="replace")] = content
    try:
        manifest = json.loads(files["bundle.json"])
        for path, record in manifest["files"].items():
            record["bytes"], record["sha256"] = len(files[path]), hashlib.sha256(files[path]).hexdigest()
        files["bundle.json"] = json.dumps(manifest).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # a description that lists no files: to be refused as it is
    sealed = io.BytesIO()
    with zipfile.ZipFile(sealed, "w") as archive:
        for path, content in files.items():
            archive.writestr(path or "nameless", content)
    use_bundle(sealed.getvalue(), home)


def experts() -> list[bytes]:
    folder = bundles.shipped() / bundles.DEFAULT_NAME / "experts"
    return [(folder / f"{name}.safetensors").read_bytes() for name in ("q1", "bitnet", "popcount")]


def use_expert(data: bytes, _: Path) -> None:
    weights = engine.loads(data, "mutant")
    engine.PackedExpert(weights).logits(np.zeros((1, weights.dim), np.float32))


def tables() -> list[bytes]:
    """The paper's embedding CSV, with and without a byte-order mark."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["folder", "name", "label", "category", "class_id", *range(6)])
    for i, (label, category) in enumerate(itertools.product(("dog", "rain", "Übung"), ("animals", "water"))):
        writer.writerow([1 + i % 5, f"{i}-a.wav", label, category, i % 3, *np.linspace(i, 2 * i, 6)])
    return [text.getvalue().encode(), b"\xef\xbb\xbf" + text.getvalue().encode()]


def use_table(data: bytes, home: Path) -> None:
    (home / "mutant.csv").write_bytes(data)
    found = imported.import_csv(home / "mutant.csv", home / "store", "mutant")
    datasets.open_dataset(found.root)


def metadata() -> list[bytes]:
    header = "filename,fold,target,category,esc10,src_file,take"
    rows = [
        f"{1 + i % 5}-{100 + i}-A-{i % 2}.wav,{1 + i % 5},{i % 2},c{i % 2},True,{100 + i},A"
        for i in range(10)
    ]
    return ["\n".join([header, *rows]).encode()]


def use_metadata(data: bytes, home: Path) -> None:
    for folder in ("meta", "audio"):
        (home / "esc" / folder).mkdir(parents=True, exist_ok=True)
    if not list((home / "esc" / "audio").iterdir()):
        for i in range(10):
            name = f"{1 + i % 5}-{100 + i}-A-{i % 2}.wav"
            soundfile.write(home / "esc" / "audio" / name, np.full(800, i / 10), 8_000)
    (home / "esc" / "meta" / "esc50.csv").write_bytes(data)
    datasets.validate(home / "esc")
    datasets.open_dataset(home / "esc")


def settings() -> list[bytes]:
    return [
        b'seed = 3\n[router]\ntemperature = 0.5\ncuriosity = "disagreement"\n[expert]\nhidden = [64, 32]\n'
    ]


def use_settings(data: bytes, home: Path) -> None:
    (home / "mutant.toml").write_bytes(data)
    config.load(home / "mutant.toml")


def links() -> list[bytes]:
    return [
        b"experts=q4,q8&alpha=0.3&k=1&curiosity=router-mc&abstain=risk&limit=0.1&sound=rain&normalise=1",
        b"page=sweep&bundle=esc10-ds-cnn&clip=1-100032-A-0.ogg&class=dog&colour=fold",
    ]


def follow(data: bytes, _: Path) -> None:
    from urllib.parse import parse_qsl

    from dashboard.session import linked, state

    asked = dict(parse_qsl(data.decode(errors="replace"), keep_blank_values=True))
    loaded = bundles.load()
    controls, _problems = state.read_link(asked, loaded)
    assert state.read_link(state.write_link(controls, loaded), loaded)[1] == ()
    linked.read_link(
        asked,
        [
            linked.one_of("class", loaded.classes, loaded.classes[0]),
            linked.some_of("experts", loaded.experts, loaded.experts),
            linked.whole("k", 1, 9, 1),
            linked.real("alpha", 0.0, 1000.0, 0.3),
            linked.switch("normalise", False),
        ],
    )


def streams() -> list[bytes]:
    rain = synth.render("rain")[:132_300]
    return [(rain * 32_767).astype("<i2").tobytes(), rain.astype("<f4").tobytes()]


def hear(data: bytes, _: Path) -> None:
    whole = bundles.load()
    kind = "f32le" if len(data) % 2 else "s16le"
    listening = Listening(whole, whole.settings(), Rules(), lambda entry: None, lambda sentence: None)
    listening.to_stream(io.BytesIO(data), 22_050 if len(data) % 3 else 8_000, kind)


def packets() -> list[bytes]:
    chunk = {"sequence": 4, "frame": 4096, "captured": 1.5e12, "pcm": "AAD/f/+A"}
    granted = {"echoCancellation": False, "noiseSuppression": False, "autoGainControl": False, "device": "x"}
    packet = {
        "packet": 7,
        "stream": "a",
        "state": "listening",
        "detail": "",
        "rate": 48000,
        "sent": 1.5e12,
        "dropped": 0,
        "hidden": False,
        "granted": granted,
        "chunks": [chunk, chunk],
    }
    return [json.dumps(packet).encode(), json.dumps(packet | {"chunks": []}).encode()]


def receive(data: bytes, _: Path) -> None:
    from dashboard.components import microphone
    from qmoe_core.live.sources import PushSource

    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):  # the browser sends JSON, whatever it says
        return
    _number, packet, _status = microphone.parse(value)
    PushSource().receive(packet)


def runs() -> list[bytes]:
    with tempfile.TemporaryDirectory() as home:
        entry = Store(Path(home)).put("folds", {"a": 1}, {"x": np.arange(12.0)}, {"f1": 0.9})
        return [path.read_bytes() for path in sorted(entry.path.iterdir())]


def keep(data: bytes, home: Path) -> None:
    """A run, one of whose files is the mutant: found damaged, set aside, kept again."""
    store = Store(home / "store")
    entry = store.put("folds", {"a": 1}, {"x": np.arange(12.0)}, {"f1": 0.9})
    for path in sorted(entry.path.iterdir()):
        original = path.read_bytes()
        path.write_bytes(data)
        again = store.get("folds", {"a": 1})
        if again is None:
            entry = store.put("folds", {"a": 1}, {"x": np.arange(12.0)}, {"f1": 0.9})
        else:
            assert data == original or np.array_equal(again.tensors["x"], np.arange(12.0))
    assert store.get("folds", {"a": 1}) is not None


TARGETS = {
    "sounds": Target(sounds, judge),
    "phones": Target(phone_sounds, judge),
    "bundles": Target(carried, use_bundle),
    "sealed bundles": Target(members, use_resealed),
    "experts": Target(experts, use_expert),
    "tables": Target(tables, use_table),
    "metadata": Target(metadata, use_metadata),
    "settings": Target(settings, use_settings),
    "links": Target(links, follow),
    "raw samples": Target(streams, hear),
    "packets": Target(packets, receive, (UserError, ValueError, msgspec.ValidationError)),
    "runs": Target(runs, keep),
}

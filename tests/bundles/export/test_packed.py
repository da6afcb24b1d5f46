"""A bundle as one file: the same bundle, and no way in for another."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qmoe_core import bundles, cli, serve
from qmoe_core.audio import decode, synth
from qmoe_core.bundles import export
from qmoe_core.bundles.export.card import card
from qmoe_core.errors import BundleError
from qmoe_core.evaluation import formats


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export.export_packed(bundles.load(), tmp_path_factory.mktemp("carried") / "lab.qmoe")


def rewritten(
    path: Path, to: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> Path:
    """A copy of a ZIP whose members went through `change`; None leaves one out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w", compression) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return to


def test_it_says_what_the_folder_says(carried):
    clip = decode.from_samples(synth.render("rain"), decode.SAMPLE_RATE)
    ours, theirs = bundles.load(), bundles.load(carried)

    assert theirs.digest == ours.digest
    assert theirs.dataset is not None
    assert serve.classify(clip, theirs).to_json() == serve.classify(clip, ours).to_json()
    theirs.verify()


def test_people_can_read_its_card(carried):
    with zipfile.ZipFile(carried) as archive:
        card = archive.read("CARD.md").decode()

    assert "official folds, epochs chosen by inner-validation" in card
    loaded = bundles.load()
    f1 = loaded.provenance.f1["q4"]
    assert f"| q4 | {f1['mean']:.3f} ± {f1['std']:.3f} | {loaded.expert_bytes('q4'):,} |" in card
    assert "CC BY 3.0" in card


def test_with_some_experts_and_again_from_the_file(carried, tmp_path):
    few = export.export_packed(bundles.load(carried), tmp_path / "few.qmoe", experts=("q4", "bitnet"))
    small, whole = bundles.load(few), bundles.load()

    assert small.experts == ("q4", "bitnet")
    assert small.manifest.mixture == ["bitnet", "q4"]
    assert few.stat().st_size < 2_200_000
    assert whole.dataset is not None
    z = whole.dataset.embeddings[:5].astype(np.float32)
    found, expected = small.outputs(z).all(), whole.outputs(z).all().of(("q4", "bitnet"))
    np.testing.assert_allclose(found.router, expected.router, atol=1e-5)
    np.testing.assert_array_equal(found.logits, expected.logits)


@pytest.mark.parametrize(
    ("experts", "says"),
    [(("q1",), "at least one expert of its mixture"), (("q5",), "q5")],
)
def test_experts_that_cannot_come_along(tmp_path, experts, says):
    with pytest.raises(Exception, match=says):
        export.export_packed(bundles.load(), tmp_path / "x.qmoe", experts=experts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BundleError, match="cannot be written"):
        export.export_packed(bundles.load(), tmp_path / "nowhere" / "x.qmoe")


def test_a_damaged_one_is_refused(carried, tmp_path):
    def flip(name: str, data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if name == "experts/q4.safetensors" else data

    damaged = bundles.load(rewritten(carried, tmp_path / "flipped.qmoe", flip))
    with pytest.raises(BundleError, match=r"q4\.safetensors: its checksum does not fit"):
        damaged.expert("q4")
    assert damaged.expert("q8").name == "q8"


def test_one_that_was_cut_off_is_refused(carried, tmp_path):
    short = tmp_path / "short.qmoe"
    short.write_bytes(carried.read_bytes()[:100_000])

    with pytest.raises(BundleError, match="not a bundle"):
        bundles.load(short)


def test_a_missing_member_and_a_longer_one(carried, tmp_path):
    without = rewritten(carried, tmp_path / "a", lambda name, data: None if "router" in name else data)
    longer = rewritten(carried, tmp_path / "b", lambda name, data: data + b"0" * ("router" in name))

    with pytest.raises(BundleError, match=r"router\.safetensors: cannot be read"):
        bundles.load(without)
    expected = bundles.load().manifest.files["router.safetensors"].bytes
    with pytest.raises(BundleError, match=f"expected {expected:,}"):
        bundles.load(longer)


def test_a_bomb_does_not_go_off(carried, tmp_path):
    """Zeros that compress a thousandfold are refused before a byte of them is inflated."""
    bomb = rewritten(
        carried,
        tmp_path / "bomb",
        lambda name, data: bytes(200 << 20) if name == "bundle.json" else None,
        compression=zipfile.ZIP_DEFLATED,
    )

    with pytest.raises(BundleError, match="compressed, which no exported bundle is"):
        bundles.load(bomb)


def test_a_million_members_are_not_listed(carried, tmp_path):
    """Python reads a ZIP's whole list of files first, for each of ours again."""
    crowded = tmp_path / "crowded"
    shutil.copy(carried, crowded)
    with zipfile.ZipFile(crowded, "a") as archive:
        for i in range(3000):
            archive.writestr(zipfile.ZipInfo(f"{i}"), b"")

    with pytest.raises(BundleError, match="lists more files than a bundle has"):
        bundles.load(crowded)
    commented = tmp_path / "commented"
    shutil.copy(carried, commented)
    with zipfile.ZipFile(commented, "a") as archive:
        archive.comment = b"x" * 65_535  # which is read in one piece, too
    bundles.load(commented).verify()


def test_the_card_of_some_experts_tells_of_those(tmp_path):
    file = export.export_packed(bundles.load(), tmp_path / "few.qmoe", experts=("q4", "bitnet"))
    with zipfile.ZipFile(file) as archive:
        card = archive.read("CARD.md").decode()

    assert [row.name for row in formats.formats(bundles.load(file))] == ["q4", "bitnet"]
    assert "in 2 numeric formats" in card
    assert "mixture" not in card  # bitnet+q4+q8 is not in it, and fp32 is none
    assert "fp32" not in card


def test_nothing_in_the_card_is_markup(tiny_run, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(tiny_run.bundle, folder)
    described = json.loads((folder / "bundle.json").read_text())
    hostile = "<img src=x onerror=alert(1)> [click](javascript:x)"
    described["title"] = hostile
    for key in ("dataset", "protocol", "selection", "licence", "citation"):
        described["provenance"][key] = hostile
    (folder / "bundle.json").write_text(json.dumps(described))

    text = card(bundles.load(folder))

    assert text.count("onerror") == 7
    assert not re.search(r"(?<!\\)[<\[]", text)


def test_another_zip_is_no_bundle(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")

    with pytest.raises(BundleError, match=r"bundle\.json: cannot be read"):
        bundles.load(tmp_path / "other.zip")


def test_the_command(tmp_path, capsys):
    out = tmp_path / "lab.qmoe"

    assert cli.main(["export", bundles.DEFAULT_NAME, "--experts", "q4", "--out", str(out), "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == out.stat().st_size
    assert said["digest"] == bundles.load().digest
    assert said["experts"] == ["q4"]
    files = bundles.load().manifest.files
    assert said["packed_bytes"] == files["experts/q4.safetensors"].bytes + files["router.safetensors"].bytes
    assert cli.main(["export", "nothing", "--out", str(out)]) == cli.EXIT_USER_ERROR
    assert "nothing: not a bundle" in capsys.readouterr().err

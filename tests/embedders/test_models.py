"""`qmoe models`: weights that are fetched, taken from a file, converted and checked."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from qmoe_core import cli, embedders
from qmoe_core.embedders import models, networks
from tests.servers import Server

Serve = Callable[[bytes], Server]


@pytest.fixture(scope="module")
def release() -> bytes:
    """What mn04's authors offer: a file of torch with the tensors of network and classifier."""
    torch.manual_seed(2)
    state = networks.Mn04().state_dict() | {"classifier.5.bias": torch.zeros(527)}
    torch.save(state, file := io.BytesIO())
    return file.getvalue()


def pinned(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setitem(models.MN04, "sha256", hashlib.sha256(content).hexdigest())


def test_a_download_that_was_cut_off_goes_on_and_is_converted(
    release: bytes, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pinned(monkeypatch, release)
    server = serve(release)
    server.ways = ["cut", "fine"]
    monkeypatch.setattr("qmoe_core.datasets.download.ATTEMPTS", 1)
    assert cli.main(["models", "download", "mn04", "--url", server.url, "--json"]) == 0
    said = capsys.readouterr()
    assert "MIT, Florian Schmid" in said.err
    assert server.asked == [None, "bytes=400-"]
    tensors = safetensors.torch.load_file(json.loads(said.out)["path"])
    assert torch.equal(tensors["features.0.0.weight"], networks_of(release)["features.0.0.weight"])
    assert embedders.create("mn04").id.startswith("mn04-")
    assert cli.main(["models", "download", "mn04", "--url", server.url]) == 0  # it is here
    assert len(server.asked) == 2


def networks_of(release: bytes) -> dict[str, torch.Tensor]:
    return torch.load(io.BytesIO(release), weights_only=True)


def test_another_file_than_the_pinned_one_is_refused(
    release: bytes, serve: Serve, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["models", "download", "mn04", "--url", serve(release).url]) == 2
    assert f"is not mn04 (SHA256 {models.MN04['sha256']})" in capsys.readouterr().err
    assert models.path("mn04") is None


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_that_one_has(
    ending: str, release: bytes, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / f"mine.{ending}"
    if ending == "pt":
        file.write_bytes(release)
    else:
        safetensors.torch.save_file(networks_of(release), file)
    assert cli.main(["models", "download", "mn04", "--from", str(file)]) == 0
    capsys.readouterr()
    assert cli.main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["mn04"]["state"], rows["mn04"]["dim"], rows["mn04"]["sample_rate_hz"]) == (
        "here",
        384,
        32_000,
    )


class Trap:
    """What a file does that is unpickled."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("trapped"),)


@pytest.mark.parametrize("how", ["pickle", "archive", "list", "other", "nothing"])
def test_what_holds_no_weights_is_refused_and_never_run(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evil.pt"
    if how == "pickle":
        file.write_bytes(pickle.dumps({"features.0.0.weight": Trap()}))
    elif how != "nothing":
        held = {"archive": {"weights": Trap()}, "list": [torch.zeros(2)], "other": {"one": torch.zeros(2)}}
        torch.save(held[how], file)
    assert cli.main(["models", "download", "mn04", "--from", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("qmoe: ")
    assert "evil.pt" in said
    assert said.count("\n") == 1
    assert not Path("trapped").exists()
    assert models.path("mn04") is None


def test_weights_of_a_timm_model_are_found_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import timm

    state = timm.create_model("mobilenetv3_small_050", pretrained=False).state_dict()
    torch.save(state, file := tmp_path / "weights.pth")
    assert cli.main(["models", "download", "mobilenetv3_small_100", "--from", str(file)]) == 2
    assert "does not hold the weights of mobilenetv3_small_100" in capsys.readouterr().err
    assert cli.main(["models", "download", "mobilenetv3_small_050", "--from", str(file)]) == 0
    embedder = embedders.create("mobilenetv3_small_050")
    assert (
        embedder.id
        == embedders.create("mobilenetv3_small_050", weights=models.path("mobilenetv3_small_050")).id
    )


def test_a_name_that_is_no_model(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["models", "download", "mn40"]) == 2
    assert "There is no model mn40; mn04 and the models of timm are accepted" in capsys.readouterr().err

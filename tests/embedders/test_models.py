"""`qmoe models`: weights that are fetched, taken from a file, converted and checked."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from qmoe_core import cli, embedders
from qmoe_core.embedders import models, networks
from qmoe_core.embedders.quantization import inputs
from qmoe_core.errors import UserError
from qmoe_core.runtime.store import Store
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


def test_a_network_in_a_format_is_made_listed_and_an_embedder(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Only calibrated, on inputs that the store holds: no sounds are made and nothing is trained."""
    torch.manual_seed(3)
    given = tmp_path / "random.safetensors"
    safetensors.torch.save_file(networks.DsCnn().state_dict(), given)
    models.keep_made(models._read(given), {}, None)
    rng, store = np.random.default_rng(1), Store()
    for number in (0, 1):
        noise = rng.integers(-60, 60, (4, 64, 40)).astype(np.int8)
        store.put(inputs.INPUTS, inputs.Shard("ds-cnn", 1, number).key, {"levels": noise})
    asked = ["models", "quantize", "ds-cnn", "--formats", "ptq8,q2", "--effort", "0", "--shards", "2"]

    assert cli.main([*asked, "--workers", "1", "--json"]) == 0

    eight, two = json.loads(capsys.readouterr().out)
    assert (eight["name"], two["name"]) == ("ds-cnn:ptq8", "ds-cnn:q2")
    assert Path(eight["path"]).name == "ds-cnn.ptq8.safetensors"
    assert two["bytes"] < 0.45 * eight["bytes"] < 0.45 * 300_000
    assert two["explained"] < eight["explained"]
    assert eight["explained"] > 0.8
    assert cli.main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["ds-cnn:q2"]["bytes"], rows["ds-cnn:q2"]["state"]) == (two["bytes"], "here")
    waveform = rng.normal(0, 0.1, (1, 22_050)).astype(np.float32)
    whole, rounded = (embedders.create(name) for name in ("ds-cnn:fp32", "ds-cnn:ptq8"))
    assert rounded.name == "ds-cnn:ptq8"
    assert rounded.id.startswith("ds-cnn:ptq8-")
    both = whole.embed(waveform)[0], rounded.embed(waveform)[0]
    assert np.corrcoef(*both)[0, 1] > 0.9
    assert not np.array_equal(*both)
    with pytest.raises(UserError, match="mn04:q4 is not on this machine: qmoe models quantize mn04 --f"):
        embedders.create("mn04:q4")
    with pytest.raises(UserError, match=r"ds-cnn\.q2\.safetensors holds the network of ds-cnn, not of mn04"):
        models.network("mn04:q2", two["path"])
    assert cli.main(["models", "quantize", "ds-cnn", "--formats", "fp16"]) == 2
    assert "accepted are q1, q2, q3, q4, q8, q16, bitnet, ptq8" in capsys.readouterr().err

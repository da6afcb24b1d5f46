from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from qmoe_core import bundles, cli
from qmoe_core.audio import synth
from qmoe_core.audio.decode import SAMPLE_RATE
from qmoe_core.runtime.store import Store

ROOT = Path(__file__).resolve().parent.parent


class Ended(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """What went to stderr: one line, and no traceback."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("qmoe")
        return lines[0]


@pytest.fixture
def qmoe(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command in this process."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse
            code = ended.code if isinstance(ended.code, int) else -1
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Ended]:
    """Run a command as a user does: a process of its own, somewhere else, warnings being errors."""

    def run(*arguments: object, stdin: bytes = b"") -> Ended:
        ended = subprocess.run(
            command(*arguments),
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env=environment(),
            check=False,
        )
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return run


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "qmoe_core", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rain.wav, long.flac (12 s at 24 kHz, stereo), text.wav, empty.wav."""
    folder = tmp_path_factory.mktemp("sounds")
    soundfile.write(folder / "rain.wav", synth.render("rain"), SAMPLE_RATE)
    noise = np.random.default_rng(0).normal(size=(12 * 24_000, 2)) * 0.1
    soundfile.write(folder / "long.flac", noise, 24_000)
    (folder / "text.wav").write_text("This is not a recording.\n")
    (folder / "empty.wav").write_bytes(b"")
    return folder


# classify


RESULT = {
    "file": str,
    "duration_s": float,
    "sample_rate_hz": int,
    "bundle": str,
    "classes": list,
    "prediction": dict,
    "experts": list,
    "uncertainty": dict,
    "alpha": float,
    "top_k": int,
    "curiosity": str,
    "mc_samples": int,
}
EXPERT = {
    "name": str,
    "label": str,
    "probabilities": list,
    "disagreement_kl": float,
    "router_probability": float,
    "routing_probability": float,
    "selected": bool,
}
UNCERTAINTY = {"total", "aleatoric", "epistemic", "router_variance", "router_mutual_information"}
# Beyond design.md: what the mixture did, where the window lies, what was noted.
MIXTURE = ["q4", "q8", "bitnet"]
MORE_OF_RESULT = {"recorded", "start_s", "end_s", "windows", "notes", "path", "error", "reason", "fitness"}
MORE_OF_RESULT |= {"experts_run", "doubt", "abstained", "prediction_set"}
MORE_OF_EXPERT = {"bonus", "router_std", "weight", "in_mixture", "predicted_kl", "needed"}


def test_classify_gives_the_documented_object(process, sounds, tiny_run):
    ended = process("classify", sounds / "rain.wav", "--bundle", tiny_run.bundle, "--json")

    assert (ended.code, ended.err) == (0, "")
    document = ended.document
    assert document.keys() == RESULT.keys() | MORE_OF_RESULT
    for key, kind in RESULT.items():
        assert type(document[key]) is kind, key
    assert document["prediction"].keys() == {"label", "probability", "probabilities"}
    assert document["uncertainty"].keys() == UNCERTAINTY
    assert [expert["name"] for expert in document["experts"]] == document["experts_run"] == MIXTURE
    for expert in document["experts"]:
        assert expert.keys() == EXPERT.keys() | MORE_OF_EXPERT
        for key, kind in EXPERT.items():
            assert type(expert[key]) is kind, key
        assert len(expert["probabilities"]) == len(document["classes"]) == 3
    assert document["file"] == "rain.wav"
    assert sum(expert["selected"] for expert in document["experts"]) == document["top_k"] == 1


def test_files_that_cannot_be_read_are_named_and_the_others_judged(process, sounds, tiny_run):
    files = ["rain.wav", "missing.wav", "text.wav", "empty.wav", "long.flac"]

    ended = process("classify", *(sounds / name for name in files), "--bundle", tiny_run.bundle, "--json")

    assert ended.code == 2
    assert [document["path"] for document in ended.document] == [str(sounds / name) for name in files]
    judged = [document for document in ended.document if document["prediction"]]
    assert [document["file"] for document in judged] == ["rain.wav", "long.flac"]
    for document in ended.document:
        assert bool(document["error"]) == (document not in judged)
    complaints = ended.err.splitlines()
    assert len(complaints) == 3
    for name, complaint in zip(files[1:4], complaints, strict=True):
        assert complaint.startswith(f"qmoe: {name} ")


def test_where_there_is_nothing_to_judge_there_is_no_label(process, tmp_path, tiny_run):
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(44_100), 44_100)

    told = process("classify", silence, "--bundle", tiny_run.bundle)
    document = process("classify", silence, "--bundle", tiny_run.bundle, "--json").document

    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("silence.wav: nothing to judge, it is silent")
    assert (document["path"], document["prediction"], document["error"]) == (str(silence), None, None)
    assert "nothing to judge" in document["reason"]
    assert document["fitness"]["silent_share"] == 1.0


def test_a_recording_comes_through_standard_input(process, sounds, tiny_run):
    data = (sounds / "rain.wav").read_bytes()

    piped = process("classify", "-", "--bundle", tiny_run.bundle, "--json", stdin=data)

    assert (piped.code, piped.err) == (0, "")
    assert piped.document["file"] == "standard input"
    nothing = process("classify", "-", "--bundle", tiny_run.bundle, "--json", stdin=b"")
    assert nothing.code == 2
    assert nothing.out == ""
    assert "standard input is empty" in nothing.complaint


HEAVY = ["torch", "timm", "librosa", "sklearn", "pandas", "streamlit", "plotly", "matplotlib", "scipy"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("missing", [[], HEAVY], ids=["installed", "not installed"])
def test_classify_needs_little_memory_and_none_of_the_heavy_packages(sounds, tiny_run, tmp_path, missing):
    script = tmp_path / "classify.py"
    script.write_text(
        "import json, re, sys\n"
        "from pathlib import Path\n"
        f"sys.modules.update(dict.fromkeys({missing}))\n"
        "from qmoe_core import cli\n"
        "code = cli.main(sys.argv[1:])\n"
        "peak = int(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1])\n"
        "loaded = [name for name, module in sys.modules.items() if module]\n"
        "print(json.dumps([code, peak, loaded]), file=sys.stderr)\n"
    )
    arguments = ["classify", str(sounds / "rain.wav"), "--bundle", str(tiny_run.bundle), "--json"]

    for _ in range(2):  # the first run may compile kernels; what counts is the second
        ended = subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, env=environment(), check=True
        )
    code, peak_kb, loaded = json.loads(ended.stderr)

    assert code == 0
    # numba looks at scipy where there is one; nothing of ours does.
    assert {name.partition(".")[0] for name in loaded} & set(HEAVY) <= {"scipy"}
    assert peak_kb < 350 * 1024


def test_one_file_is_an_object_and_several_are_a_list(qmoe, sounds, tiny_run):
    one = qmoe("classify", sounds / "rain.wav", "--bundle", tiny_run.bundle, "--json")
    two = qmoe("classify", *[sounds / "rain.wav"] * 2, "--bundle", tiny_run.bundle, "--json")

    assert two.document == [one.document, one.document]


def test_a_long_recording_lists_its_windows(qmoe, sounds, tiny_run):
    arguments = ("classify", sounds / "long.flac", "--bundle", tiny_run.bundle)

    document = qmoe(*arguments, "--json").document

    assert [w["start_s"] for w in document["windows"]] == [0.0, 2.5, 5.0, pytest.approx(7.0, abs=1e-3)]
    assert document["sample_rate_hz"] == 24_000
    assert "2 channels were mixed" in document["notes"][0]
    text = qmoe(*arguments).out
    assert "2.5 – 7.5 s: " in text
    assert "note: 2 channels were mixed" in text


def test_people_read_a_sentence_and_a_table(qmoe, sounds, tiny_run):
    ended = qmoe("classify", sounds / "rain.wav", "--bundle", tiny_run.bundle)
    document = qmoe("classify", sounds / "rain.wav", "--bundle", tiny_run.bundle, "--json").document

    label, probability = document["prediction"]["label"], document["prediction"]["probability"]
    lines = ended.out.splitlines()
    assert lines[0] == f"rain.wav: {label}, {probability:.0%}"
    known = document["uncertainty"]
    assert f"experts say {label}; doubt {document['doubt']:.3f} " in lines[1]
    assert f"(total uncertainty {known['total']:.3f} nats, epistemic {known['epistemic']:.3f})" in lines[1]
    assert [line.split()[0] for line in lines[3:6]] == MIXTURE
    assert [line.split()[0] for line in lines[3:6] if line.endswith("yes")] == [
        expert["name"] for expert in document["experts"] if expert["selected"]
    ]


def test_options_reach_the_mixture(qmoe, sounds, tiny_run):
    options = "--alpha 20 --top-k 2 --curiosity router-mc --normalise --mc-samples 7 --experts q1,q16,fp32"

    document = qmoe(
        "classify", sounds / "rain.wav", "--bundle", tiny_run.bundle, "--json", *options.split()
    ).document

    assert (document["alpha"], document["top_k"], document["mc_samples"]) == (20.0, 2, 7)
    assert document["curiosity"] == "router-mc"
    chosen = {expert["name"]: expert for expert in document["experts"]}
    assert {name for name, expert in chosen.items() if expert["in_mixture"]} == {"q1", "q16", "fp32"}
    assert sum(expert["selected"] for expert in chosen.values()) == 2
    run = {name for name, expert in chosen.items() if expert["probabilities"] is not None}
    assert run == {*document["experts_run"]} == {e["name"] for e in chosen.values() if e["selected"]}
    assert sum(expert["weight"] for expert in chosen.values()) == pytest.approx(1.0)


def test_more_experts_than_there_are_is_all_of_them(qmoe, sounds, tiny_run):
    document = qmoe(
        "classify", sounds / "rain.wav", "--bundle", tiny_run.bundle, "--json", "--top-k", 99
    ).document

    assert sum(expert["selected"] for expert in document["experts"]) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--alpha -1", "alpha is -1; accepted is 0 to 1000"),
        ("--alpha 1001", "alpha is 1001; accepted is 0 to 1000"),
        ("--alpha nan", "alpha is nan"),
        ("--alpha much", "'--alpha': 'much' is not a valid float"),
        ("--top-k 0", "top-k is 0; accepted is 1 or more"),
        ("--top-k 1.5", "'--top-k': '1.5' is not a valid integer"),
        ("--curiosity wild", "curiosity is 'wild'; accepted is disagreement, distilled, router-mc, none"),
        ("--mc-samples 0", "MC samples is 0; accepted is 1 to 1000"),
        ("--mc-samples 100000", "MC samples is 100000"),
        ("--experts q4,q5", "--experts: there is no expert 'q5'; choose from fp32"),
        ("--experts q4,q4", "--experts: an expert is named twice"),
        ("--experts=", "--experts: no expert named"),
        ("--bundle nowhere", "nowhere: not a bundle"),
        ("--bundel x", "No such option '--bundel'"),
    ],
)
def test_an_option_that_is_not_accepted_is_one_line(qmoe, sounds, tiny_run, options, says):
    ended = qmoe("classify", sounds / "rain.wav", "--bundle", tiny_run.bundle, "--json", *options.split())

    assert ended.code == 2
    assert ended.out == ""
    assert says in ended.complaint


def test_a_bundle_that_lacks_an_expert_says_which_there_are(qmoe, sounds, tiny_run, tmp_path):
    bundle = shutil.copytree(tiny_run.bundle, tmp_path / "cut")
    (bundle / "experts" / "q4.safetensors").unlink()

    ended = qmoe("classify", sounds / "rain.wav", "--bundle", bundle)

    assert ended.code == 2
    assert "cut/experts/q4.safetensors" in ended.complaint


def test_a_file_name_cannot_write_on_the_terminal(qmoe, tiny_run, tmp_path):
    ended = qmoe("classify", tmp_path / "two\nlines\x1b[31m.wav", "--bundle", tiny_run.bundle)

    assert ended.code == 2
    assert "\x1b" not in ended.complaint


def test_a_full_disk_is_one_line(sounds, tiny_run):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("wb") as sink:
        ended = subprocess.run(
            command("classify", sounds / "rain.wav", "--bundle", tiny_run.bundle),
            stdout=sink,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
        )

    assert ended.returncode == 2
    assert ended.stderr.decode() == "qmoe: output: No space left on device\n"


# data and embed


@pytest.mark.parametrize("arguments", [(), ("data",), ("runs",), ("classify",), ("fly",)])
def test_a_command_that_is_none_is_one_line_that_points_to_help(qmoe, arguments):
    ended = qmoe(*arguments)

    assert ended.code == 2
    assert ended.complaint.endswith("--help")


@pytest.mark.parametrize(
    "arguments", [("--help",), ("classify", "--help"), ("train", "--help"), ("runs", "gc", "-h")]
)
def test_every_command_has_help(qmoe, arguments):
    ended = qmoe(*arguments)

    assert ended.code == 0
    assert ended.out.startswith("usage: qmoe")


def test_data_list_names_what_can_be_trained_on(qmoe, tiny_dataset, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "tiny").symlink_to(tiny_dataset)
    broken = shutil.copytree(tiny_dataset, home / "torn")
    next((broken / "audio").iterdir()).unlink()
    monkeypatch.setenv("QMOE_DATA", str(home))

    rows = {row["name"]: row for row in qmoe("data", "list", "--json").document}

    assert {key: rows["tiny"][key] for key in ("clips", "classes", "folds", "problem")} == {
        "clips": 30,
        "classes": 3,
        "folds": 5,
        "problem": None,
    }
    assert "missing" in rows["torn"]["problem"]
    text = qmoe("data", "list").out.splitlines()
    assert text[0].split() == ["name", "clips", "classes", "folds", "path"]
    assert any(line.split()[:4] == ["tiny", "30", "3", "5"] for line in text)


def test_data_validate_lists_every_problem_at_once(qmoe, tiny_dataset, tmp_path):
    torn = shutil.copytree(tiny_dataset, tmp_path / "torn")
    files = sorted((torn / "audio").iterdir())
    files[0].unlink()
    files[1].write_text("no sound")

    ended = qmoe("data", "validate", torn, "--json")

    assert ended.code == 2
    assert ended.document["errors"] >= 2
    named = " ".join(problem["file"] + problem["message"] for problem in ended.document["problems"])
    assert files[0].name in named
    assert files[1].name in named
    text = qmoe("data", "validate", torn)
    assert text.code == 2
    assert text.out.splitlines()[-1].startswith(f"{torn}: {ended.document['errors']} errors")


def test_data_validate_is_content_with_a_good_one(qmoe, tiny_dataset):
    ended = qmoe("data", "validate", tiny_dataset, "--json")

    assert ended.code == 0
    assert (ended.document["errors"], ended.document["problems"]) == (0, [])


@pytest.mark.parametrize("arguments", [("data", "validate"), ("embed",), ("train",)])
def test_a_dataset_that_does_not_exist_is_one_line(qmoe, tmp_path, arguments):
    ended = qmoe(*arguments, tmp_path / "nowhere")

    assert ended.code == 2
    assert "nowhere: no such dataset" in ended.complaint


def test_embed_counts_and_the_second_time_finds_everything(qmoe, tiny_dataset, tmp_path):
    first = qmoe("embed", tiny_dataset, "--json")
    second = qmoe("embed", tiny_dataset)

    assert first.code == second.code == 0
    assert first.document.keys() == {"dataset", "embedder", "clips", "dim", "seconds", "finite"}
    assert (first.document["dataset"], first.document["clips"], first.document["finite"]) == (
        "tiny",
        30,
        True,
    )
    assert "30/30" in first.err  # progress goes to stderr
    assert "30 of 30 clips were embedded before" in second.err
    assert second.out.startswith(f"tiny: 30 clips × {first.document['dim']} numbers")
    assert len(Store(tmp_path / "store").list("embeddings")) == 2


def test_an_embedder_that_does_not_exist_is_one_line(qmoe, tiny_dataset):
    ended = qmoe("embed", tiny_dataset, "--embedder", "efficientnet_b33")

    assert ended.code == 2
    assert "efficientnet_b33" in ended.complaint


# train


def small(settings: tuple[str, ...]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_train_gives_the_documented_object(qmoe, tiny_dataset, tiny_settings, tmp_path):
    ended = qmoe(
        "train", tiny_dataset, "--experts", "q4", "--moe", "q4,q8", "--protocol", "random", "--json",
        "--workers", 1, "--bundle", tmp_path / "made", *small(tiny_settings), "--set", "evaluation.folds=2",
    )  # fmt: skip

    document = ended.document
    assert ended.code == 0
    assert {"dataset", "embedder", "protocol", "selection", "seconds", "rows"} <= document.keys()
    assert (document["dataset"], document["protocol"]) == ("tiny", "random")
    assert [row["name"] for row in document["rows"]] == ["q4", "q8", "q4+q8", "q4+q8 curious"]
    for row in document["rows"]:
        assert row.keys() == {"name", "parameters", "f1_mean", "f1_std", "f1_folds"}
        assert len(row["f1_folds"]) == 2
    assert document["leaking_sources"] > 0
    assert bundles.load(tmp_path / "made").experts == ("q4", "q8")
    assert "training: 4/4" in ended.err


def test_train_prints_a_table_that_names_protocol_and_selection(qmoe, tiny_dataset, tiny_settings):
    arguments = ("--experts", "fp32", "--selection", "best-on-test", "--workers", 1, *small(tiny_settings))

    lines = qmoe("train", tiny_dataset, *arguments).out.splitlines()

    assert "official folds, epoch by best-on-test, 1 seed(s), weighted F1 on test folds" in lines[0]
    assert lines[2].split()[0] == "fp32"
    assert lines[-1].endswith("5 tasks trained, 0 found in the store")


def test_a_configuration_file_is_used_and_saved_with_the_run(qmoe, tiny_dataset, tiny_settings, tmp_path):
    path = tmp_path / "lab.toml"
    path.write_text("seed = 5\n[expert]\ndropout = 0.1\n")

    ended = qmoe(
        "train", tiny_dataset, "--experts", "fp32", "--workers", 1, "--config", path, *small(tiny_settings)
    )

    assert ended.code == 0
    for entry in Store(tmp_path / "store").list("experts"):
        assert entry.metadata["config"]["seed"] == 5
        assert entry.metadata["config"]["expert"]["dropout"] == 0.1
        assert entry.metadata["config"]["expert"]["hidden"] == [24, 16]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--set router.temprature=1", "unknown field `temprature` - at `router`"),
        ("--set expert.dropout=2", "`expert.dropout`"),
        ("--config nowhere.toml", "nowhere.toml"),
        ("--protocol oficial", "`evaluation.protocol`; accepted is official, random, grouped"),
        ("--selection best", "`evaluation.selection`"),
        ("--experts q5", "--experts: there is no expert 'q5'"),
        ("--moe q4,q4", "--moe: an expert is named twice"),
        ("--moe=", "--moe: no expert named"),
        ("--seeds 0", "--seeds is 0"),
        ("--workers -2", "--workers is -2"),
        ("--bundle ..", "not a name for a bundle"),
        ("--weights random", "logmel-stats has no weights"),
        ("--protocol random --set evaluation.folds=20", "20 folds need at least 20 clips in every class"),
    ],
)
def test_what_train_does_not_accept_is_one_line(qmoe, tiny_dataset, tmp_path, monkeypatch, options, says):
    monkeypatch.setattr(cli.ProgressBar, "__call__", lambda *_: None)

    ended = qmoe("train", tiny_dataset, *options.split())

    assert ended.code == 2
    assert says in ended.complaint
    assert Store(tmp_path / "store").list("experts") == []


def test_a_dataset_without_folds_says_which_protocols_there_are(qmoe, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.ProgressBar, "__call__", lambda *_: None)
    for clip in (tiny_dataset / "audio").iterdir():
        target = tmp_path / "folders" / clip.stem.rpartition("-")[2] / clip.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, target)

    ended = qmoe("train", tmp_path / "folders", "--protocol", "official")

    assert ended.code == 2
    assert "the dataset has no official folds; use the protocol `random` or `grouped`" in ended.complaint


def until(line: str, stream: io.TextIOBase | Any) -> str:
    """Read what a process says until it has said something."""
    said = ""
    for text in stream:
        said += text
        if line in text:
            return said
    raise AssertionError(f"the process ended without saying {line!r}:\n{said}")


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_what_is_finished_and_the_next_start_finds_it(
    qmoe, tiny_dataset, tiny_settings, tmp_path, workers
):
    arguments = ["train", tiny_dataset, *small(tiny_settings), "--workers", workers]
    with subprocess.Popen(
        command(*arguments, "--seeds", 50),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,  # Ctrl-C reaches the whole group
    ) as started:
        said = until("training: ", started.stderr)
        os.killpg(started.pid, signal.SIGINT)
        out, rest = started.communicate()

    assert started.returncode == 130
    assert out == ""
    assert re.fullmatch("qmoe: stopped.*; what was finished is kept", rest.splitlines()[-1])
    assert "Traceback" not in said + rest
    store = Store(tmp_path / "store")
    kept = [e for e in store.list("experts") if (e.metadata["expert"], e.metadata["seed"]) == ("fp32", 42)]
    assert kept
    assert store.verify().damaged == ()
    again = qmoe(*arguments, "--experts", "fp32", "--json", "--workers", 1).document
    assert (again["found"], again["trained"]) == (len(kept), 5 - len(kept))


def test_two_processes_train_into_one_store_and_say_the_same(tiny_dataset, tiny_settings, tmp_path):
    arguments = [
        "train",
        tiny_dataset,
        "--experts",
        "q1,ptq8",
        "--moe",
        "q1,ptq8",
        "--json",
        "--workers",
        "1",
    ]
    arguments += small(tiny_settings)

    both = [
        subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        for _ in range(2)
    ]
    ended = [process.communicate() for process in both]

    assert [process.returncode for process in both] == [0, 0], ended
    first, second = (json.loads(out) for out, _ in ended)
    assert first["rows"] == second["rows"]
    assert first["trained"] + first["found"] == 15
    store = Store(tmp_path / "store")
    assert len(store.list("experts")) == 15
    assert store.verify().damaged == ()
    assert list((store.root / "tmp").iterdir()) == []


# runs


@pytest.fixture
def kept(tiny_run, tmp_path, monkeypatch) -> Store:
    """A copy of the tiny run's store, as the user's own."""
    return Store(shutil.copytree(tiny_run.store.root, tmp_path / "store"))


def test_runs_list_says_what_each_entry_is(qmoe, kept):
    rows = qmoe("runs", "list", "--kind", "experts", "--json").document

    assert len(rows) >= 45
    for row in rows:
        assert {
            "kind",
            "key",
            "created",
            "bytes",
            "expert",
            "dataset",
            "protocol",
            "fold",
            "seed",
            "f1",
        } <= row.keys()
    text = qmoe("runs", "list").out.splitlines()
    assert text[0].split() == ["key", "kind", "bytes", "created", "what"]
    assert any("routers" in line and "bitnet" in line for line in text)
    assert qmoe("runs", "list", "--kind", "nothing", "--json").document == []


def test_runs_show_takes_the_beginning_of_a_key(qmoe, kept):
    entry = kept.list("experts")[0]

    document = qmoe("runs", "show", entry.key[:16], "--json").document

    assert document["key"] == entry.key
    assert document["fields"]["expert"] == entry.metadata["expert"]
    assert document["metadata"]["config"]["expert"]["hidden"] == [24, 16]
    assert document["tensors"]["logits"] == [6, 3]


@pytest.mark.parametrize(
    ("key", "says"), [("zz", "not a key; expected its first 4"), ("0000000000", "no entry begins with")]
)
def test_runs_show_of_nothing_is_one_line(qmoe, kept, key, says):
    ended = qmoe("runs", "show", key)

    assert ended.code == 2
    assert says in ended.complaint


def test_runs_verify_sets_damage_aside_and_says_so(qmoe, kept, caplog):
    sound = qmoe("runs", "verify", "--json")
    assert (sound.code, sound.document["damaged"]) == (0, [])
    victim = kept.list("experts")[3]
    (victim.path / "tensors.safetensors").write_bytes(b"damage")

    ended = qmoe("runs", "verify", "--json")

    assert ended.code == 2
    assert ended.document["checked"] == sound.document["checked"]
    assert [victim.key in report["path"] for report in ended.document["damaged"]] == [True]
    assert "bytes" in ended.document["damaged"][0]["reason"]
    after = qmoe("runs", "verify")
    assert after.code == 0
    assert "0 damaged" in after.out


def test_runs_gc_removes_only_what_it_is_told_to(qmoe, kept):
    count = len(kept.list())

    assert qmoe("runs", "gc", "--json").document["entries"] == []
    assert qmoe("runs", "gc", "--older-than", 1, "--json").document["entries"] == []
    dry = qmoe("runs", "gc", "--older-than", 0, "--dry-run", "--json").document
    assert len(dry["entries"]) == count
    assert dry["dry_run"] is True
    assert len(kept.list()) == count
    real = qmoe("runs", "gc", "--older-than", 0)
    assert real.out.startswith(f"{count} entries")
    assert kept.list() == []


@pytest.mark.parametrize("age", ["-1", "nan", "inf", "old"])
def test_an_age_that_is_none_removes_nothing(qmoe, kept, age):
    count = len(kept.list())

    ended = qmoe("runs", "gc", f"--older-than={age}")

    assert ended.code == 2
    assert "--older-than" in ended.complaint
    assert len(kept.list()) == count


def test_another_store_is_named_with_store(qmoe, kept, tmp_path):
    ended = qmoe("runs", "--store", tmp_path / "elsewhere", "list")

    assert ended.out == f"no runs in {tmp_path / 'elsewhere'}\n"


def test_a_store_that_is_a_file_is_one_line(qmoe, tmp_path):
    (tmp_path / "file").write_text("not a folder")

    ended = qmoe("runs", "--store", tmp_path / "file", "list")

    assert ended.code == 2
    assert "a file where the store needs a folder" in ended.complaint


# app and progress


def test_app_starts_streamlit_on_the_page_beside_the_bundle(qmoe, monkeypatch):
    started: list[list[str]] = []

    def execv(path: str, arguments: list[str]) -> None:
        started.append(arguments)
        raise UserWarning("replaced")  # execv never comes back

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(os, "chdir", lambda folder: started.append([str(folder)]))

    with pytest.raises(UserWarning, match="replaced"):
        qmoe("app", "--port", 8123, "--no-browser")

    folder, arguments = started
    assert Path(folder[0], ".streamlit", "config.toml").is_file()
    assert Path(folder[0], "dashboard", "launch.py").is_file()
    assert arguments[:3] == [sys.executable, "-m", "dashboard.launch"]
    assert arguments[arguments.index("--server.port") + 1] == "8123"
    assert arguments[arguments.index("--server.address") + 1] == "localhost"
    assert arguments[arguments.index("--server.headless") + 1] == "true"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal():
    stream = Terminal()
    bar = cli.ProgressBar("training", stream)

    for done in (1, 2, 4):
        bar(done, 4, "q4, official-1")

    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert "█" * 24 + " 4/4" in text


def test_progress_is_ten_lines_in_a_log():
    stream = io.StringIO()
    bar = cli.ProgressBar("training", stream)

    for done in range(1, 201):
        bar(done, 200, "q4")

    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith("training: 200/200 after ")


def test_progress_of_nothing_is_whole():
    stream = io.StringIO()

    cli.ProgressBar("embedding", stream)(0, 0, "nothing to do")

    assert "0/0" in stream.getvalue()


@pytest.fixture(autouse=True)
def _terminal_as_it_was() -> Iterator[None]:
    """`main` sets logging up; the next test finds it as this one did."""
    import logging

    handlers = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = handlers


def test_the_first_start_on_a_machine_asks_nothing(tmp_path: Path) -> None:
    """`make run` for somebody who never started Streamlit: there is nobody to answer, and a page comes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "qmoe_core", "app", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "BROWSER": "true", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while "The lab is at" not in said and (line := process.stdout.readline()):
            said += line
        assert f"http://localhost:{port}" in said
        assert "mail" not in said
    finally:
        process.kill()
        process.communicate()

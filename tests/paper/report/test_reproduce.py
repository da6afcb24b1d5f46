"""A whole report: what it holds, that it comes again for nothing, and that it is whole or not there."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from qmoe_core import bundles, cli
from qmoe_core import config as configuration
from qmoe_core.datasets import splits
from qmoe_core.errors import Cancelled, ConfigError, DatasetError
from qmoe_core.experts.spec import NAMES
from qmoe_core.measure import latency
from qmoe_core.paper.report import protocols, reproduce, writing
from qmoe_core.paper.report.study import MIXTURES, MODELS
from qmoe_core.training import crossval


def rows_of(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_table_is_written_with_the_papers_beside_it(reproduced) -> None:
    written = {path.name for path in (reproduced.folder / "tables").iterdir()}
    assert {f"table-{n}{end}.csv" for n in range(1, 8) for end in ("", "-paper")} <= written
    assert {f"table-{n}.md" for n in range(1, 8)} <= written
    assert (reproduced.folder / "report.md").read_text(encoding="utf-8").startswith("# The paper’s tables")
    assert json.loads((reproduced.folder / "report.json").read_text())["format"] == writing.FORMAT
    first = rows_of(reproduced.folder, "table-1-paper")[0]
    assert (first["Model"], first["ESC-50 F1"]) == ("Q16-Base", "0.819±0.020")


def test_the_models_stand_under_both_names(reproduced) -> None:
    rows = rows_of(reproduced.folder, "table-1")
    assert {(row["Model"], row["Here"]) for row in rows} == {(model.paper, model.ours) for model in MODELS}
    f1 = [float(row["tiny F1"]) for row in rows]
    assert f1 == sorted(f1, reverse=True)
    for name in ("table-2", "table-4"):
        assert all(0.0 <= float(row["F1-Score"]) <= 1.0 for row in rows_of(reproduced.folder, name))


def test_table_3_lists_all_seven_mixtures_and_the_one_left_out(reproduced) -> None:
    rows = rows_of(reproduced.folder, "table-3")
    names = [row["Model"] for row in rows]
    assert len(names) == 8
    printed = {row["Model"] for row in rows_of(reproduced.folder, "table-3-paper")}
    assert printed < set(names)
    assert sum("not in the paper" in name for name in names) == 1
    for row in rows:
        energy = float(row["Energy (mJ)"])
        assert float(row["F1 per mJ"]) == pytest.approx(float(row["F1"]) / energy)
        assert float(row["CO2 (µg)"]) == pytest.approx(energy / 3.6e9 * 56.0 * 1e6)


def test_costs_start_at_the_waveform_where_the_embedder_is_known(reproduced) -> None:
    for row in rows_of(reproduced.folder, "table-4"):
        assert float(row["Path from the waveform (µs)"]) > float(row["p50 (µs)"])
    assert "from the waveform" in (reproduced.folder / "report.md").read_text(encoding="utf-8")


def test_scenarios_and_the_appendix_are_computed_from_our_figures(reproduced) -> None:
    scenarios = [
        row for section in ("5-3", "5-4") for row in rows_of(reproduced.folder, f"scenarios-{section}")
    ]
    assert [row["Source"][:4] for row in scenarios].count("§5.3") == 4
    assert [row["Source"][:4] for row in scenarios].count("§5.4") == 5
    assert all(row["Here"] in {model.ours for model in MODELS} for row in scenarios)
    mixtures = [row["Here"] for row in scenarios if "mixtures" in row["Scenario"]]
    assert all("+" in name for name in mixtures)
    for row in rows_of(reproduced.folder, "appendix-a1"):
        training, inference = float(row["Training (g)"]), float(row["Inference (µg)"]) / 1e6
        assert float(row["Equal after (inferences)"]) == pytest.approx(training / inference)
        assert float(row["A year (g)"]) == pytest.approx(inference * 1e6 * 365.0)
    grids = rows_of(reproduced.folder, "appendix-a1-grids")
    assert {row["Grid"] for row in grids} >= {"the paper’s", "France", "Poland"}
    per_grid = [float(row["A year (kg)"]) / float(row["Intensity (g/kWh)"]) for row in grids]
    assert per_grid == pytest.approx([per_grid[0]] * len(per_grid))
    advice = rows_of(reproduced.folder, "appendix-a2")
    assert [row["Recommendation (A.2)"][:3] for row in advice] == ["(1)", "(2)", *["(3)"] * 3, *["(4)"] * 4]
    amortised = [row["Here"] for row in advice[5:]]
    each = [float(text.split(" mg a task")[0]) for text in amortised]
    assert [each[0] / one for one in each] == pytest.approx([1, 2, 5, 10], rel=0.01)


IN_THE_PAPER = (
    *(f"Equation {number}" for number in range(1, 9)),
    "Figure 1",
    "Table 1",
    "Table 2",
    "Table 3",
    "Four recommendations",
    "Table 4",
    "Five recommendations",
    "Table 5",
    "Table 6",
    "Appendix A.1",
    "Appendix A.2",
    "Table 7",
    "Appendix B.1",
    "Appendix B.2",
)
"""What a reader with the paper open looks for, in the order in which it is there."""


def test_a_reader_finds_every_part_of_the_paper_in_order(reproduced) -> None:
    rows = rows_of(reproduced.folder, "contents")
    parts = [row["The paper"] for row in rows]
    assert [part for part in parts if part in IN_THE_PAPER] == list(IN_THE_PAPER)
    sections = {section.title: place for place, section in enumerate(reproduced.report.sections)}
    places = [sections[row["In this report"]] for row in rows]  # each is a section that is there
    assert places == sorted(places)
    page = (reproduced.folder / writing.PAGE).read_text(encoding="utf-8")
    shown = [page.index(f'<section id="{section.id}"') for section in reproduced.report.sections]
    assert shown == sorted(shown)
    for number in range(1, 8):
        assert f"Table {number} of the paper as printed" in page
    numbers = [row["Number"] for row in rows_of(reproduced.folder, "equations")]
    assert numbers == [*(f"Eq. {number}" for number in range(1, 9)), "Figure 1"]
    asked = [len(rows_of(reproduced.folder, f"scenarios-{section}")) for section in ("5-3", "5-4")]
    assert asked == [4, 5]
    assert [row["Appendix"] for row in rows_of(reproduced.folder, "appendix-b")] == ["B.1"] * 3 + ["B.2"]


def test_alpha_changes_what_its_rows_say_and_agrees_with_table_1(reproduced) -> None:
    rows = rows_of(reproduced.folder, "alphas")
    assert {row["α"] for row in rows} == {"0.0", "0.2", "0.3"}
    of_table_1 = {row["Here"]: float(row["tiny F1"]) for row in rows_of(reproduced.folder, "table-1")}
    for row in rows:
        name = row["Mixture"] + {"0.0": "", "0.3": " curious"}.get(row["α"], "?")
        assert float(row["F1"]) == pytest.approx(of_table_1.get(name, float(row["F1"])))
        assert (
            row["α"] != "0.0" or float(row["Routed elsewhere (%)"]) == float(row["Change from α = 0"]) == 0.0
        )
    for row in rows_of(reproduced.folder, "mixtures"):
        over = float(row["F1"]) - float(row["Its F1"])
        assert float(row["Mixture − best [95 %]"]) == pytest.approx(over)
        assert float(row["F1"]) == pytest.approx(of_table_1[row["Here"]])


def test_curiosity_and_routing_are_files_as_the_papers_code_writes_them(reproduced) -> None:
    every = rows_of(reproduced.folder, "curiosity-values")
    found: dict[int, dict[str, float]] = {}
    for fold in range(1, 6):
        folder = reproduced.folder / "curiosity" / "tiny" / "seed-42" / f"fold_{fold}"
        values = json.loads((folder / "curiosity_values.json").read_text())
        assert {"curiosity_histogram.svg", "curiosity_per_class.svg"} < {p.name for p in folder.iterdir()}
        for clip, *row in zip(
            values["clips"], values["curiosity"], values["epistemic"], values["labels"], strict=True
        ):
            found[clip] = dict(zip(("router variance", "epistemic", "label"), row, strict=True))
    assert sorted(found) == list(range(30))  # every clip in one fold
    for row in every:
        own = found[int(row["clip"])]
        assert float(row["epistemic"]) == pytest.approx(own["epistemic"], abs=1e-9)
        assert float(row["router variance"]) == pytest.approx(own["router variance"], abs=1e-9)
    routing = json.loads((reproduced.folder / "routing" / "tiny" / "routing_results.json").read_text())
    assert routing["config"]["curiosity_alpha"] == 0.2
    assert len(routing["routing"]) == 30
    for place, summary in routing["summaries"].items():
        own = [one for one in routing["routing"] if one["expert"] == int(place)]
        assert summary["count"] == len(own)
        if own:
            assert summary["avg_conf"] == pytest.approx(np.mean([one["confidence"] for one in own]))
    counts = [int(row["Clips (× seeds)"]) for row in rows_of(reproduced.folder, "routing")]
    assert counts == [summary["count"] for summary in routing["summaries"].values()]
    figures = {path.stem for path in (reproduced.folder / "figures").iterdir()}
    assert {"confidence-distribution-tiny", "roc-tiny", "mixtures"} <= figures


def test_the_share_of_16_bits_is_that(reproduced) -> None:
    rows = {row["Bits"]: row for row in rows_of(reproduced.folder, "table-2")}
    assert list(rows) == ["1", "2", "4", "8", "16"]
    for row in rows.values():
        share = 100.0 * float(row["F1-Score"]) / float(rows["16"]["F1-Score"])
        assert float(row["% of 16-bit"]) == pytest.approx(share)


def test_the_leak_is_the_difference_of_the_two_protocols(reproduced) -> None:
    rows = rows_of(reproduced.folder, "protocols")
    assert [row["Here"] for row in rows] == ["fp32", "q4", "q8", "bitnet", "ptq8"]
    for row in rows:
        leak = float(row["F1, leaky"]) - float(row["F1, sound"])
        assert float(row["Leak [95 %]"]) == pytest.approx(leak)
        assert float(row["Leak [95 %] low"]) <= leak <= float(row["Leak [95 %] high"])


def test_the_codes_own_bitnet_stands_beside_ours(reproduced) -> None:
    rows = {row["Here"]: row for row in rows_of(reproduced.folder, "paper-code")}
    theirs = rows.pop("bitnet, as in the code")
    assert list(rows) == [model.ours for model in MODELS if model.ours in reproduce.OF_THE_CODE]
    last, best = float(theirs["F1, last epoch"]), float(theirs["F1, best on test"])
    assert 0.0 < last <= best <= 1.0
    assert theirs["The paper’s code"] == ""  # which was not run on these clips


def test_table_5_tests_what_the_paper_tests(reproduced) -> None:
    rows = rows_of(reproduced.folder, "table-5")
    paper = rows_of(reproduced.folder, "table-5-paper")
    assert [row["Paper’s p"] for row in rows] == [row["p-value"] for row in paper]
    for row in rows:
        assert 0.0 <= float(row["p"]) <= 1.0
        if row["Test"] == "F1":
            assert float(row["p"]) <= float(row["p corrected"]) <= float(row["p Holm"])
            assert float(row["p Holm"]) <= float(row["p Bonferroni"])


def test_every_clips_curiosity_is_a_file(reproduced) -> None:
    rows = rows_of(reproduced.folder, "curiosity-values")
    assert len(rows) == 30
    for row in rows:
        mean = np.mean([float(row[f"d of {name}"]) for name in ("bitnet", "q4", "q8")])
        assert float(row["epistemic"]) == pytest.approx(mean, abs=1e-9)
    figures = {path.stem for path in (reproduced.folder / "figures").iterdir()}
    assert {"curiosity-histogram-tiny", "curiosity-classes-tiny", "leak", "latency"} <= figures


class Fetched(HTMLParser):
    """Every address that the page would fetch or lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_the_page_needs_nothing_else(reproduced) -> None:
    text = (reproduced.folder / writing.PAGE).read_text(encoding="utf-8")
    page = Fetched(text)
    assert not page.tags & {"script", "link", "iframe", "img", "object", "embed"}
    assert all(address.startswith("#") for address in page.found)
    assert not re.search(r"url\(|@import", text)
    assert "prefers-color-scheme:dark" in text
    assert len(text) < 300_000


def refuse(*arguments: object, **named: object) -> None:
    raise AssertionError("nothing should be computed")


def test_the_second_run_computes_nothing(reproduced, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(crossval, "run_task", refuse)
    monkeypatch.setattr(crossval, "_cached_router", refuse)
    monkeypatch.setattr(latency, "race", refuse)
    again = reproduce.reproduce(tmp_path / "again", **reproduced.arguments)
    assert writing.files(again) == writing.files(reproduced.report)


def test_fresh_measures_again_and_trains_nothing(reproduced, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(crossval, "run_task", refuse)
    again = reproduce.reproduce(tmp_path / "again", **reproduced.arguments, fresh=True)
    before, after = ({s.id: s for s in report.sections} for report in (reproduced.report, again))
    assert before["table-1"].ours == after["table-1"].ours  # F1
    assert before["table-4"].ours != after["table-4"].ours


def test_a_cancelled_run_writes_nothing_and_goes_on_later(reproduced, tmp_path, monkeypatch) -> None:
    settings = ("seed=7", "expert.hidden=[8]", "expert.epochs=1", "router.hidden=[4, 4]", "router.epochs=1")
    arguments = {**reproduced.arguments, "config": configuration.load(settings=settings)}
    trained: list[str] = []
    train = crossval.run_task

    def counted(task: crossval.Task, **named: object) -> crossval.FoldResult:
        trained.append(str(task))
        return train(task, **named)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(crossval, "run_task", counted)
    out = tmp_path / "out"
    with pytest.raises(Cancelled):
        reproduce.reproduce(out, **arguments, cancelled=lambda: len(trained) == 12)
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))
    assert len(trained) == 12
    reproduce.reproduce(out, **arguments)
    assert (out / writing.PAGE).is_file()
    sound = [task for task in trained if "official" in task]
    assert len(sound) == len(set(sound)) == len(NAMES) * 5


def test_only_a_report_is_replaced(reproduced, tmp_path, monkeypatch) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not a report"):
        reproduce.reproduce(foreign, **reproduced.arguments)
    assert (foreign / "chapter.txt").read_text() == "years of work"

    out = tmp_path / "out"
    writing.write(reproduced.report, out)
    stray = out / "stray.txt"
    stray.write_text("of the older report")
    writing.write(reproduced.report, out)
    assert not stray.exists()
    monkeypatch.setattr(writing, "files", refuse)
    with pytest.raises(AssertionError):
        writing.write(reproduced.report, out)
    assert (out / writing.PAGE).is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_settings_that_make_no_sense_are_refused(reproduced, tmp_path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="accepted is lab, paper-code"):
        reproduce.reproduce(tmp_path / "out", preset="thesis")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="1 or more"):
        reproduce.reproduce(tmp_path / "out", seeds=0)
    monkeypatch.setattr(reproduce, "embed_dataset", refuse)  # what cannot be done is found before the work
    absent = {**reproduced.arguments, "names": [*reproduced.arguments["names"], "nowhere"]}
    with pytest.raises(DatasetError, match="nowhere"):
        reproduce.reproduce(tmp_path / "out", **absent)
    with pytest.raises(ConfigError, match="published"):
        reproduce.reproduce(tmp_path / "out", **reproduced.arguments, published=tmp_path)
    twice = {**reproduced.arguments, "names": reproduced.arguments["names"] * 2}
    with pytest.raises(ConfigError, match="given twice"):
        reproduce.reproduce(tmp_path / "out", **twice)


def test_the_command_refuses_in_one_line(tmp_path, capsys) -> None:
    (tmp_path / "file.txt").write_text("mine")
    assert cli.main(["reproduce", "--quick", "--out", str(tmp_path)]) == cli.EXIT_USER_ERROR
    assert capsys.readouterr().err.count("\n") == 1


def test_the_preset_trains_as_the_papers_code() -> None:
    code = configuration.load("paper-code")
    assert (code.expert.epochs, code.expert.label_smoothing) == (10, pytest.approx(0.1085, abs=1e-4))
    assert (code.evaluation.protocol, code.evaluation.selection) == ("random", "best-on-test")
    assert (code.moe_training, code.router.mix) == ("joint", "logits")


def test_a_bundles_own_clips_need_no_training() -> None:
    loaded = bundles.load()
    subject = protocols.subject_of(loaded)
    trial = protocols.Trial(
        "sound", configuration.Config(), ("fp32", "q4", "bitnet", "q8"), MIXTURES[:0], (42,)
    )
    scores = protocols.as_judged(trial, loaded, subject)
    assert scores.leaking == 0
    assert scores.test_share == pytest.approx(0.25)
    assert 0.88 < scores.f1("fp32").mean() < 0.96
    random = splits.folds(subject.labels, subject.sources, None, "random")
    assert splits.leaking_sources(random, subject.sources) > 50

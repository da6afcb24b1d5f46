"""From the Train page's controls to a request, and from a job to words and grids; no Streamlit here."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboard.session import public
from qmoe_core import config, datasets, numbers
from qmoe_core.embedders import OWN
from qmoe_core.errors import DatasetError, UserError
from qmoe_core.runtime.jobs import Bench, Claims, HoldOut, Job, Request, Story, Train
from qmoe_core.training import crossval, run

EMBEDDERS = (*OWN, "efficientnet_b3", "mobilenetv3_small_100")
OFFLINE = "logmel-stats"
"""The embedder without weights."""


def request(values: Mapping[str, Any], scheduler: str = "") -> Train:
    """What the controls ask for, on a cluster where there is an address.

    Raises:
        ConfigError: one of the settings does not exist, or has a value that it may not have.
        UserError: visitors may not do that.
    """
    settings = [text.strip() for text in values["set"].split(";") if text.strip()]
    settings += [
        f"evaluation.protocol={values['protocol']}",
        f"evaluation.selection={values['selection']}",
        f"evaluation.folds={values['folds']}",
    ]
    asked = Train(
        dataset=values["data"],
        embedder=values["embedder"],
        weights=values["weights"] or None,
        experts=tuple(values["experts"]),
        mixtures=(tuple(values["mix"]),) if values["mix"] else (),
        config=config.load(settings=settings),
        seeds=values["seeds"],
        perturb=values["perturb"],
        bundle=values["name"] or None,
        scheduler=scheduler.strip() or None,
    )
    public.allowed(asked)
    return asked


def suggested_name(dataset: str, embedder: str) -> str:
    """A name for the bundle, of characters that a name may have.

    >>> suggested_name("/home/me/bird songs", "logmel-stats")
    'my-bird-songs'
    """
    stem = Path(dataset).name + ("" if embedder == OFFLINE else f"-{embedder}")
    return "my-" + "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)[:60]


def is_a_name(text: str) -> bool:
    """Whether a bundle may be called that: a page makes bundles among the lab's own only, never by a path."""
    return re.fullmatch(r"\w[\w.-]*", text) is not None


@dataclass(frozen=True)
class Outline:
    """A dataset in a few numbers: clips, classes, recordings, folds (0 where it has none of its own)."""

    clips: int
    classes: tuple[str, ...]
    recordings: int
    folds: tuple[int, ...]
    unreadable: tuple[str, ...]
    """Files that are not sound, the first few as sentences."""
    broken: int
    """How many clips those are."""
    notes: tuple[str, ...] = ()
    """What was left out, or guessed, a sentence each."""


CHECKED = 3000
"""Headers of at most so many files are read before a training; more would keep the page waiting."""


def outline(spec: str) -> Outline:
    """What there is in a dataset.

    Raises:
        DatasetError: it cannot be used at all, in words.
    """
    public.allowed_dataset(spec)
    manifest = datasets.open_dataset(spec)
    broken = []
    if len(manifest) <= CHECKED:
        broken = list(datasets.validate(spec).errors)
    if len(broken) >= len(manifest):
        raise DatasetError(f"{spec}: none of its {len(manifest)} files can be read as audio; {broken[0]}")
    return Outline(
        clips=len(manifest),
        classes=manifest.classes,
        recordings=len(set(manifest.sources)),
        folds=() if manifest.folds is None else tuple(sorted(set(manifest.folds.tolist()))),
        unreadable=tuple(map(str, broken[:3])),
        broken=len(broken),
        notes=manifest.notes,
    )


def columns(asked: Request, official: Sequence[int], story: Story) -> list[tuple[str, int]]:
    """Folds of every seed, as a job goes through them: (name, seed)."""
    if isinstance(asked, Bench | Claims):
        return []
    evaluation = asked.config.evaluation
    if evaluation.protocol == "official":
        names = [f"official-{number}" for number in official]
    else:
        names = [f"{evaluation.protocol}-{number}" for number in range(1, evaluation.folds + 1)]
    seeds = asked.seeds if isinstance(asked, Train) else 1
    known = [(name, asked.config.seed + i) for i in range(seeds) for name in names]
    seen = [(event["fold"], event["seed"]) for event in story.folds]
    seen += [(fold, seed) for _, fold, seed, _ in story.curves]
    return list(dict.fromkeys([*known, *seen]))


def rows(asked: Request) -> list[str]:
    """Experts that a job trains, those that others are made from first, then jointly trained mixtures."""
    if isinstance(asked, Bench | Claims):
        return []
    if isinstance(asked, HoldOut):
        return list(crossval.with_sources(asked.experts))
    needed, mixtures = run.experts_of(asked)
    joint = ["+".join(names) for names in mixtures] if asked.config.moe_training == "joint" else []
    return [*crossval.with_sources(run.heads_of(needed)), *joint]


@dataclass(frozen=True)
class Cell:
    """One expert on one fold: its F1 once it is there, whether it was found, whether it is trained now."""

    f1: float | None = None
    found: bool = False
    running: bool = False


def grid(job: Job, story: Story, columns: Sequence[tuple[str, int]]) -> dict[str, list[Cell]]:
    """Where a job stands, expert by fold."""
    done = {(event["expert"], event["fold"], event["seed"]): event for event in story.folds}
    begun = {(expert, fold, seed) for expert, fold, seed, _ in story.curves}
    cells: dict[str, list[Cell]] = {}
    for name in rows(job.request):
        cells[name] = []
        for fold, seed in columns:
            event = done.get((name, fold, seed))
            if event is not None:
                cells[name].append(Cell(event["f1"], bool(event.get("cached"))))
            else:
                cells[name].append(Cell(running=job.state == "running" and (name, fold, seed) in begun))
    return cells


def latest(story: Story, names: Sequence[str]) -> str | None:
    """The expert that was trained last."""
    newest = max(story.curves.items(), key=lambda item: item[1][-1]["at"], default=None)
    if newest is not None:
        return newest[0][0]
    return story.folds[-1]["expert"] if story.folds else names[0] if names else None


def part_shown(asked: Request) -> str:
    """The fit whose curves say most: the one that chooses the epoch."""
    if isinstance(asked, Bench | Claims) or asked.config.evaluation.selection == "inner-validation":
        return "inner"
    return "refit"


def time_left(happened: Sequence[Mapping[str, Any]], now: float) -> float | None:
    """Seconds that the stage a job is at will still take, at its pace so far; None before there is one.

    Args:
        happened: the job's events, in order; each says when it was (`at`, Unix time).
        now: Unix time.
    """
    stages = [event for event in happened if event["event"] == "stage"]
    if not stages:
        return None
    last = stages[-1]
    first = next(event for event in stages if event["stage"] == last["stage"])
    done = last["done"] - first["done"]
    if done <= 0 or not last["total"] or last["done"] >= last["total"]:
        return None
    pace = (last["at"] - first["at"]) / done
    return max(0.0, pace * (last["total"] - last["done"]) - (now - last["at"]))


def state_of(job: Job, before: int, now: float | None = None) -> str:
    """What a job is at, in a sentence.

    Args:
        before: active jobs that were submitted before it.
    """
    now = time.time() if now is None else now
    if job.stopping:
        return "It was told to stop and does so within a moment."
    if job.state == "queued":
        others = f"{numbers.number(before)} other job{'s' * (before != 1)}"
        if public.LIMITS is not None:
            return "It waits for its turn: one job runs at a time, of all visitors."
        return f"It waits for {others}: one runs at a time." if before else "It starts in a moment."
    if job.state == "running":
        spent = numbers.duration(now - (job.started or now))
        return f"It has run for {spent}, and goes on when this page is closed."
    took = f" after {numbers.duration(job.ended - job.started)}" if job.ended and job.started else ""
    if job.state == "done":
        return f"Done{took}."
    if job.state == "cancelled":
        return f"Stopped{took}; what was finished is kept."
    return f"Failed{took}."


def made_bundle(job: Job) -> str | None:
    """The name of the bundle that a job made."""
    made = (job.result or {}).get("bundle")
    return Path(made).name if job.state == "done" and isinstance(made, str) else None


def how(asked: Request) -> str:
    """How a job's figures are got."""
    if isinstance(asked, Bench | Claims):
        return "see Efficiency" if isinstance(asked, Bench) else "see Claims"
    evaluation = asked.config.evaluation
    seeds = asked.seeds if isinstance(asked, Train) else 1
    counted = f"{seeds} seeds from {asked.config.seed}" if seeds > 1 else f"seed {asked.config.seed}"
    counted += f", {asked.perturb} changed copies of each clip" * bool(asked.perturb)
    return (
        f"{Path(asked.dataset).name}, {asked.embedder}, {evaluation.protocol} folds, epoch chosen by "
        f"{evaluation.selection}, {counted}"
    )


def problem(error: UserError) -> str:
    """An error as a sentence with a full stop."""
    text = str(error)
    return text if text.endswith((".", "?", "!")) else f"{text}."

"""How far a whole report is, and how long it will still take, beside the progress of the step in hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from qmoe_core.numbers import duration
from qmoe_core.paper.report.protocols import Trial
from qmoe_core.runtime.executor import Progress
from qmoe_core.training import crossval
from qmoe_core.training.crossval import Subject

MEASURING_S = 150.0
"""What the measurements of one dataset take, roughly."""


def work_of(trial: Trial, subject: Subject) -> dict[str, float]:
    """What a trial will do, by the title of its progress display: clips seen in training, at most.

    Raises:
        DatasetError: the dataset does not allow such folds.
    """
    config = trial.config
    made = crossval.splits_of(subject, config, trial.seeds)
    clips = float(np.sum([len(split.fold.train) for split in made]))
    clips *= 2 if config.evaluation.selection == "inner-validation" else 1  # trained twice
    names = crossval.with_sources(trial.experts)
    found = {trial.title: clips * len(names) * config.expert.epochs}
    if config.moe_training == "joint":
        for members in trial.mixtures:
            title = crossval.joint_title(members)
            found[title] = clips * len(members) * config.router.epochs
    return found


@dataclass
class WholeRun:
    """Follows every step of a report.

    Attributes:
        make: makes the display of one step from its title.
        work: of every step (dataset, trial), by the titles of its displays, in the order in which they run.
        datasets: how many are measured after their training.
    """

    make: Callable[[str], Progress]
    work: Mapping[tuple[str, str], Mapping[str, float]]
    datasets: int
    clock: Callable[[], float] = time.monotonic
    _step: tuple[str, str] = ("", "")
    _measured: int = 0
    _spent: float = 0.0
    _worked: float = 0.0
    _unfinished: dict[str, float] = field(default_factory=dict)

    def begin(self, dataset: str, trial: str) -> None:
        """A step begins, and all before it are over."""
        self._step = (dataset, trial)
        self._unfinished = dict(self.work.get(self._step, {}))

    def measured(self) -> None:
        """The measurements of a dataset are over."""
        self._measured += 1

    def progress(self, title: str) -> Progress:
        """A display of the step in hand that says what is left of the whole."""
        show = self.make(self._titled(title))
        whole = self._unfinished.get(title)
        at: list[float] = [self.clock(), -1.0]

        def shown(done: int, total: int, message: str) -> None:
            if whole is None:
                show(done, total, message)
                return
            share, now = done / total if total else 1.0, self.clock()
            if at[1] < 0.0 and message == crossval.FOUND:  # nothing was worked for it
                at[:] = [now, share]
            before = max(at[1], 0.0)
            self._spent += now - at[0]
            self._worked += (share - before) * whole
            self._unfinished[title] = (1.0 - share) * whole
            at[:] = [now, share]
            left = self.left()
            show(done, total, message if left is None else f"{message}; about {duration(left)} left of all")

        return shown

    def _titled(self, title: str) -> str:
        if self._step not in self.work:
            return f"{self._step[0]}: {title}" if self._step[0] else title
        place = list(self.work).index(self._step) + 1
        return f"{self._step[0]}, step {place} of {len(self.work)}: {title}"

    def left(self) -> float | None:
        """Seconds that the whole will still take at the rate so far; None before anything was done."""
        if self._worked <= 0.0:
            return None
        steps = list(self.work)
        later = steps[steps.index(self._step) + 1 :]
        work = sum(self._unfinished.values()) + sum(sum(self.work[step].values()) for step in later)
        return work * self._spent / self._worked + MEASURING_S * (self.datasets - self._measured)

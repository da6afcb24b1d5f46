"""What a cluster costs: messages, how long workers wait, and a clip by way of a folder or a bucket.

    python -m tests.cluster_costs --clips 1600

Everything is on this machine: scheduler, client, workers with one thread each, and the S3 server of the tests
(which is no measure of a real one). It prints the tables of docs/cluster.md; nothing is judged.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import soundfile

from qmoe_core import datasets, embedders
from qmoe_core.audio import synth
from qmoe_core.embedders.embed import KIND, embed_dataset
from qmoe_core.measure import environment
from qmoe_core.runtime import dask_cluster, executor
from qmoe_core.runtime.store import Store
from tests import buckets
from tests.clusters import Cluster

MESSAGES = 600
TASKS = (("0.01 s", 0.01, 3000), ("0.13 s (16 clips)", 0.13, 300), ("1 s", 1.0, 24))


def work(_: int, seconds: float) -> float:
    """Use so much processor time; gives how long that took."""
    started, end = time.perf_counter(), time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return time.perf_counter() - started


class Watched:
    """Processor seconds of everybody, while something runs."""

    def __init__(self, made: Cluster) -> None:
        self.processes = {
            "client": [psutil.Process()],
            "scheduler": [psutil.Process(made.scheduler.pid)],
            "worker": [psutil.Process(worker.pid) for worker in made.workers],
        }

    def used(self) -> dict[str, float]:
        return {
            name: sum(sum(process.cpu_times()[:2]) for process in processes)
            for name, processes in self.processes.items()
        }

    def __enter__(self) -> Watched:
        self.before, self.started = self.used(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self.started
        self.took = {name: value - self.before[name] for name, value in self.used().items()}


def beside(made: Cluster, seconds: float, tasks: int) -> tuple[float, float]:
    """What tasks that take so long cost beside themselves.

    Returns:
        Processor time of everybody that no task used, as a share of what tasks used; and the share of the
        workers' time in which they had no task.
    """
    with Watched(made) as watch:
        took = sum(value for _, value in executor.run(partial(work, seconds=seconds), range(tasks)))
    used = sum(watch.took.values())
    return used / (tasks * seconds) - 1.0, 1.0 - took / (watch.wall * len(made.workers))


def message(made: Cluster, count: int) -> dict[str, float]:
    """Milliseconds of an empty message, ungrouped: processor time of everybody, and wall time."""
    usual, dask_cluster.RECENT = dask_cluster.RECENT, count + 1
    try:
        with Watched(made) as watch:
            list(executor.run(partial(work, seconds=0.0), range(count)))
    finally:
        dask_cluster.RECENT = usual
    return {
        **{name: 1e3 * value / count for name, value in watch.took.items()},
        "wall": 1e3 * watch.wall / count,
    }


def sounds(folder: Path, clips: int) -> Path:
    """Ogg files of five seconds, no two alike, a folder a class."""
    rng = np.random.default_rng(0)
    names = list(synth.GALLERY)[:2]
    rendered = {name: synth.render(name) for name in names}
    for number in range(clips):
        name = names[number % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        sound = rendered[name] + 1e-3 * rng.standard_normal(len(rendered[name]))
        sound = np.resize(sound, 5 * 22_050).astype(np.float32)
        soundfile.write(folder / name / f"{number}.ogg", sound, 22_050, format="OGG", subtype="VORBIS")
    return folder


def a_clip(made: Cluster, data: Path, address: str, clips: int) -> dict[str, float]:
    """Processor milliseconds of a clip, embedded with logmel-stats into a store."""
    manifest = datasets.open_dataset(data)
    with Watched(made) as watch:
        embed_dataset(manifest, embedders.create("logmel-stats"), executor.Context(Store(address)))
    assert len(Store(address).list(KIND)) == -(-clips // 16)
    found = {name: 1e3 * value / clips for name, value in watch.took.items()}
    return {**found, "wall": 1e3 * watch.wall / clips, "MB": watched_memory(watch)}


def watched_memory(watch: Watched) -> float:
    """The largest worker's memory, MB."""
    return max(process.memory_info().rss for process in watch.processes["worker"]) / 1e6


def ready(made: Cluster) -> None:
    """Wait until all workers take tasks."""
    while len({pid for _, pid in executor.run(_pid, range(4 * len(made.workers)))}) < len(made.workers):
        pass


def _pid(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def measured(workers: int, home: Path, service: dict[str, str], clips: int, repeats: int) -> dict[str, str]:
    """The figures of a cluster of so many workers, as they are printed, by what they are of."""
    os.environ["QMOE_STORE"] = str(home / f"store{workers}")
    folder = home / f"cluster{workers}"
    folder.mkdir()
    made, found = Cluster(folder), {}
    made.add_workers(workers)
    try:
        with dask_cluster.connected(made.address):
            ready(made)
            one = message(made, MESSAGES)
            everybody = one["client"] + one["scheduler"] + one["worker"]
            found[f"a message, {MESSAGES} empty tasks: processor time of all"] = f"{everybody:.1f} ms"
            found["the same: client / scheduler"] = f"{one['client']:.1f} / {one['scheduler']:.1f} ms"
            found["the same: wall time"] = f"{one['wall']:.1f} ms"
            for name, seconds, tasks in TASKS:
                shares = [beside(made, seconds, tasks) for _ in range(repeats)]
                cost, idle = (statistics.median(values) for values in zip(*shares, strict=True))
                found[f"{tasks:,} tasks of {name}: processor time beside them / idle"] = (
                    f"{cost:.1%} / {idle:.1%}"
                )
            for where, into in (
                ("a folder", str(home / f"into{workers}")),
                ("a bucket", buckets.made(service)),
            ):
                one = a_clip(made, home / "data", into, clips)
                found[f"a clip into {where}, n = {clips:,}: worker"] = f"{one['worker']:.2f} ms"
                found[f"into {where}: client / scheduler"] = (
                    f"{one['client']:.2f} / {one['scheduler']:.2f} ms"
                )
                found[f"into {where}: memory of a worker"] = f"{one['MB']:.0f} MB"
    finally:
        made.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster_costs", description="What a cluster costs."
    )
    parser.add_argument("--clips", type=int, default=1600)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qmoe-costs-") as folder, buckets.beside() as service:
        os.environ.update(service)
        sounds(Path(folder) / "data", arguments.clips)
        one, two = (
            measured(workers, Path(folder), service, arguments.clips, arguments.repeats) for workers in (1, 2)
        )
    where = environment.describe()
    print(
        f"{where['processor']}, {where['cores']} cores, Python {platform.python_version()}; load "
        f"{os.getloadavg()[0]:.1f}; medians of {arguments.repeats}\n"
    )
    print("| what | 1 worker | 2 workers |\n| --- | --- | --- |")
    for what, figure in one.items():
        print(f"| {what} | {figure} | {two[what]} |")


if __name__ == "__main__":
    # Not this module's own: what workers call must be found under the same name there.
    from tests import cluster_costs

    cluster_costs.main()

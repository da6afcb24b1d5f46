"""A sweep on many machines while workers, the scheduler, the client and the network fail: complete and equal.

    python -m tests.campaigns cluster --rounds 5

Every round runs a sweep (`qmoe sweep ood`) on two workers with an empty store, and ends one of those that
take part at a random moment of the work. What the client then says must be a sentence; started again if need
be, the sweep must end with the document and the weights, to the last bit, of one process alone, and with what
was finished before still the same entry. Two conditions need root: there `qmoe train` has each worker on a
machine of its own (a network namespace, joined by a bridge, with the client's folders out of sight), and only
a bucket is shared. `reproduce --quick` then gives the tables of one machine, also with a worker killed
half-way.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import s3fs

from qmoe_core.embedders import embed
from qmoe_core.measure import kept
from qmoe_core.runtime.store import Store
from qmoe_core.training import crossval
from tests import buckets, tiny
from tests.campaigns import commands
from tests.clusters import Cluster

TASKS = 15
"""Three experts on five folds."""
EXPERTS = "bitnet,q4,q8"
SUBNET = "10.213.77"
TIMES = {"table-6": ("s", "CO2", "Training")}
"""Columns (by a word in their names) that say how long training took: times, not results."""


@dataclass
class Result:
    """What came of a condition."""

    condition: str
    rounds: int = 0
    kept: int = 0
    """Tasks that were finished before, and not done again."""
    tasks: int = 0
    said: str = ""
    failures: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """What all rounds share."""

    home: Path
    data: Path
    rng: np.random.Generator
    environment: dict[str, str]
    work: tuple[str, ...]
    expected: str = ""
    weights: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def start(self, store: str, scheduler: str | None) -> commands.Running:
        settings = [part for setting in tiny.SETTINGS for part in ("--set", setting)]
        where = ["--scheduler", scheduler] if scheduler else ["--workers", "1"]
        command = [*self.work, "--json", *where, *settings]
        return commands.start(command, {**self.environment, "QMOE_STORE": store})

    def alone(self, name: str) -> Bench:
        """With what one process gives."""
        store = Store(self.home / name)
        ended = self.start(store.address, None).ended()
        assert ended.code == 0, ended.err
        made = replace(self, expected=figures(ended.out), weights=trained(store))
        assert len(made.weights) == TASKS
        return made

    def check(self, result: Result, ended: commands.Ended, store: Store) -> None:
        """Note it if this is not what one process alone gives."""
        if ended.code != 0:
            result.failures.append(f"exit code {ended.code}, said {ended.err[-500:]!r}")
        elif figures(ended.out) != self.expected:
            result.failures.append("the document differs from that of one process")
        elif not same(trained(store), self.weights):
            result.failures.append("the weights differ from those of one process")
        if (found := store.verify()).damaged:
            result.failures.append(f"damaged: {[one.reason for one in found.damaged]}")

    def moment(self) -> int:
        """At how many finished tasks something happens."""
        return int(self.rng.integers(1, TASKS - 3))


def training(data: Path) -> tuple[str, ...]:
    return ("train", str(data), "--experts", EXPERTS)


def figures(document: str) -> str:
    """A document without the time that it took."""
    return re.sub(r'"(compose_)?seconds": [0-9.e-]+|"(trained|found)": \d+', "", document)


def trained(store: Store) -> dict[str, dict[str, np.ndarray]]:
    return {entry.key: entry.tensors for entry in store.list(crossval.KIND)}


def same(
    mine: Mapping[str, Mapping[str, np.ndarray]], theirs: Mapping[str, Mapping[str, np.ndarray]]
) -> bool:
    """Whether two stores hold the same, bit for bit."""
    return mine.keys() == theirs.keys() and all(
        tensors.keys() == theirs[key].keys()
        and all(tensor.tobytes() == theirs[key][name].tobytes() for name, tensor in tensors.items())
        for key, tensors in mine.items()
    )


def wait_for(store: Store, tasks: int, running: commands.Running) -> dict[str, float]:
    """When so many tasks are finished (or the command is over): when each was."""
    while running.child.is_alive() and len(store.list(crossval.KIND)) < tasks:
        time.sleep(0.005)
    return {entry.key: entry.created for entry in store.list(crossval.KIND)}


def stayed(result: Result, before: Mapping[str, float], store: Store) -> None:
    """Count a round that was hit in the middle; note it if something that was finished was done again."""
    result.rounds += len(before) < len(store.list(crossval.KIND))
    after = {entry.key: entry.created for entry in store.list(crossval.KIND)}
    result.kept += len(before)
    result.tasks += len(after)
    if lost := [key for key, created in before.items() if after.get(key) != created]:
        result.failures.append(f"{len(lost)} finished tasks were done again")


@contextlib.contextmanager
def a_cluster(bench: Bench, workers: int = 2) -> Iterator[Cluster]:
    made = Cluster(Path(tempfile.mkdtemp(dir=bench.home)))
    made.add_workers(workers)
    try:
        yield made
    finally:
        made.stop()


def worker_killed(bench: Bench, rounds: int) -> Result:
    result = Result("a worker killed")
    for number in range(rounds):
        store = Store(bench.home / f"worker{number}")
        with a_cluster(bench) as cluster:
            running = bench.start(store.address, cluster.address)
            before = wait_for(store, bench.moment(), running)
            cluster.workers[number % 2].kill()
            bench.check(result, running.ended(), store)
        stayed(result, before, store)
    return result


def scheduler_restarted(bench: Bench, rounds: int) -> Result:
    result = Result("the scheduler killed, and restarted")
    for number in range(rounds):
        store = Store(bench.home / f"scheduler{number}")
        with a_cluster(bench) as cluster:
            running = bench.start(store.address, cluster.address)
            wait_for(store, bench.moment(), running)
            cluster.scheduler.kill()
            cluster.scheduler.wait()
            ended = running.ended()
            result.said = (ended.sentences or [""])[-1]
            if wrong := ended.wrongly_refused("is gone; what was finished is kept"):
                result.failures.append(wrong)
            for worker in cluster.workers:  # they end when they miss it
                worker.wait()
            before = wait_for(store, 0, running)
            cluster.start_scheduler()
            cluster.add_workers(2)
            bench.check(result, bench.start(store.address, cluster.address).ended(), store)
        stayed(result, before, store)
    return result


def client_killed(bench: Bench, rounds: int) -> Result:
    result = Result("the client killed")
    for number in range(rounds):
        store = Store(bench.home / f"client{number}")
        with a_cluster(bench) as cluster:
            running = bench.start(store.address, cluster.address)
            before = wait_for(store, bench.moment(), running)
            running.child.kill()
            running.ended()
            bench.check(result, bench.start(store.address, cluster.address).ended(), store)
        stayed(result, before, store)
    return result


# Machines of their own.


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def may_make_machines() -> bool:
    """Whether this user, on this machine, can make namespaces of networks and mounts."""
    if any(shutil.which(name) is None for name in ("ip", "unshare", "mount")):
        return False
    name = f"qmoe{os.getpid()}"
    try:
        command("ip", "netns", "add", name)
        command("ip", "netns", "delete", name)
        command("unshare", "--mount", "--propagation", "private", "true")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@contextlib.contextmanager
def network(machines: int) -> Iterator[list[str]]:
    """Network namespaces on a bridge of their own; the host is `SUBNET`.1, they are .2, .3 and so on."""
    bridge = f"qmoe{os.getpid() % 10_000}"
    names = [f"{bridge}m{number}" for number in range(machines)]
    try:
        command("ip", "link", "add", bridge, "type", "bridge")
        command("ip", "address", "add", f"{SUBNET}.1/24", "dev", bridge)
        command("ip", "link", "set", bridge, "up")
        for number, name in enumerate(names, start=2):
            command("ip", "netns", "add", name)
            command("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            command("ip", "link", "set", name, "master", bridge, "up")
            inside = ("ip", "-n", name)
            command(*inside, "address", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
            command(*inside, "link", "set", "eth0", "up")
            command(*inside, "link", "set", "lo", "up")
        yield names
    finally:
        for words in [
            *(["ip", "netns", "delete", name] for name in names),
            *(["ip", "link", "delete", name] for name in names),
            ["ip", "link", "delete", bridge],
        ]:
            subprocess.run(words, check=False, capture_output=True)


def on_machine(name: str, hidden: Path) -> list[str]:
    """What starts a command on a machine, where a folder of the host's is empty."""
    script = 'mount -t tmpfs tmpfs "$1" && shift && exec ip netns exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(hidden), name]


@contextlib.contextmanager
def machines(bench: Bench) -> Iterator[tuple[Cluster, list[str], Store, Bench]]:
    """A scheduler and the client here, two machines with a worker each, and a bucket that all reach."""
    with network(2) as names, buckets.served(f"{SUBNET}.1") as service:
        client = Path(tempfile.mkdtemp(dir=bench.home))
        mine = {**bench.environment, **service, "XDG_DATA_HOME": str(client)}
        os.environ.update(service)
        s3fs.S3FileSystem.clear_instance_cache()  # it remembers the service of the last round
        there = replace(bench, environment=mine)
        cluster = Cluster(Path(tempfile.mkdtemp(dir=bench.home)), f"{SUBNET}.1")
        for number, name in enumerate(names, start=2):
            home = {"XDG_DATA_HOME": tempfile.mkdtemp(dir=bench.home)}
            before = on_machine(name, client)
            cluster.add_workers(1, before, {**service, **home}, host=f"{SUBNET}.{number}")
        try:
            yield cluster, names, Store(f"{buckets.made(service)}/lab"), there
        finally:
            cluster.stop()


def machine_killed(bench: Bench, rounds: int) -> Result:
    return _machine_lost(
        "two machines and a bucket, one killed", bench, rounds, lambda cluster, _: cluster.workers[0].kill()
    )


def machine_cut_off(bench: Bench, rounds: int) -> Result:
    """Nobody says goodbye when a cable is pulled: it shows when nothing comes."""
    return _machine_lost(
        "two machines and a bucket, one cut off",
        bench,
        min(rounds, 2),
        lambda _, names: command("ip", "link", "set", names[0], "down"),
    )


def _machine_lost(
    condition: str, bench: Bench, rounds: int, lose: Callable[[Cluster, list[str]], object]
) -> Result:
    result = Result(condition)
    bench = replace(bench, work=training(bench.data)).alone(f"before {condition}")
    for _ in range(rounds):
        with machines(bench) as (cluster, names, store, there):
            running = there.start(store.address, cluster.address)
            before = wait_for(store, bench.moment(), running)
            lose(cluster, names)
            bench.check(result, running.ended(), store)
            stayed(result, before, store)
            if not store.list(embed.PART_KIND):
                result.failures.append("the embeddings did not go by way of the bucket")
    return result


# The whole report.


def reproduced(bench: Bench, rounds: int) -> Result:
    """`reproduce --quick` here, on two workers, and on two of which one is killed half-way."""
    del rounds
    result = Result("reproduce --quick, here and on two workers, one killed in the last")
    stores = [Store(bench.home / f"report{number}") for number in range(3)]

    def reproduce(number: int, scheduler: str | None) -> commands.Running:
        where = ["--scheduler", scheduler] if scheduler else []
        out = str(bench.home / f"written{number}")
        return commands.start(
            ["reproduce", "--quick", "--out", out, *where],
            {**bench.environment, "QMOE_STORE": stores[number].address},
        )

    def check(ended: commands.Ended, number: int) -> None:
        result.rounds += number < 2
        if ended.code != 0:
            result.failures.append(f"exit code {ended.code}, said {ended.err[-500:]!r}")
        elif wrong := differences(bench.home / "written0", bench.home / f"written{number}"):
            result.failures.append(f"tables differ: {wrong[:3]}")
        elif not same(trained(stores[number]), trained(stores[0])):
            result.failures.append("the weights differ from those of one machine")

    check(reproduce(0, None).ended(), 0)
    for number in (1, 2):
        # Times are measured once: what is compared is what was computed.
        shutil.copytree(stores[0].root / kept.KIND, stores[number].root / kept.KIND)
        with a_cluster(bench) as cluster:
            running = reproduce(number, cluster.address)
            half = len(trained(stores[0])) // 2
            before = wait_for(stores[number], half, running) if number == 2 else {}
            if number == 2:
                cluster.workers[0].kill()
            check(running.ended(), number)
        if number == 2:
            stayed(result, before, stores[number])
    return result


def differences(one: Path, other: Path) -> list[str]:
    """Cells of two reports' tables that are not the same, but for how long training took."""
    found = []
    names = sorted(path.name for path in (one / "tables").glob("*.csv"))
    if names != sorted(path.name for path in (other / "tables").glob("*.csv")):
        return ["which tables there are"]
    for name in names:
        mine, theirs = (
            list(csv.DictReader(io.StringIO((folder / "tables" / name).read_text(encoding="utf-8"))))
            for folder in (one, other)
        )
        times = TIMES.get(name.removesuffix(".csv"), ())
        if times:  # which its rows are sorted by
            mine, theirs = (sorted(rows, key=lambda row: [*row.values()][:2]) for rows in (mine, theirs))
        for number, rows in enumerate(itertools.zip_longest(mine, theirs)):
            if None in rows:
                found.append(f"{name}: the number of rows")
                break
            found += [
                f"{name}, row {number}, {column}: {rows[0][column]} and {rows[1].get(column)}"
                for column in rows[0]
                if rows[0][column] != rows[1].get(column) and not any(word in column for word in times)
            ]
    return found


ANYWHERE = (worker_killed, scheduler_restarted, client_killed)
WITH_MACHINES = (machine_killed, machine_cut_off)


def campaign(
    rounds: int,
    conditions: tuple[Callable[[Bench, int], Result], ...],
    seed: int = 0,
    progress: Callable[[str], object] = print,
) -> list[Result]:
    """The conditions, one after the other."""
    with tempfile.TemporaryDirectory(prefix="qmoe-cluster-") as folder:
        home = Path(folder)
        data = tiny.dataset(home / "data")
        sweep = ("sweep", "ood", str(data), "--held-out", "hiss")
        rng, environment = np.random.default_rng(seed), {"XDG_DATA_HOME": str(home / "share")}
        bench = Bench(home, data, rng, environment, sweep).alone("alone")
        results = []
        for condition in conditions:
            results.append(condition(bench, rounds))
            last = results[-1]
            progress(f"{last.condition}: {last.rounds} rounds, {len(last.failures)} failures")
        return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)


def main(arguments: argparse.Namespace) -> int:
    """The campaign; 1 if anything failed."""
    machines_too = may_make_machines()
    if not machines_too:
        print("no root here, or no ip and unshare: machines of their own are left out", file=sys.stderr)
    conditions = (*ANYWHERE, *(WITH_MACHINES if machines_too else ()), reproduced)
    results = campaign(
        arguments.rounds, conditions, arguments.seed, lambda line: print(line, file=sys.stderr)
    )
    print("| condition | rounds | tasks | finished before, not done again | failures |")
    print("| --- | --- | --- | --- | --- |")
    for one in results:
        print(f"| {one.condition} | {one.rounds} | {one.tasks} | {one.kept} | {len(one.failures)} |")
        for failure in one.failures[:5]:
            print(failure, file=sys.stderr)
    return int(any(one.failures for one in results))

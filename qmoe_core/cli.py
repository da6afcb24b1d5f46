"""The command line: `qmoe …`.

Results go to stdout (one JSON document with `--json`), progress and logs to stderr. What the user got
wrong is one line on stderr and exit code 2; an interrupted run exits with 130 and keeps what is finished.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import msgspec

from qmoe_core import __version__
from qmoe_core.errors import Cancelled, ConfigError, UserError

if TYPE_CHECKING:
    from qmoe_core.decision import Classification

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

# Which extra of the package brings what the base install, made for serving, leaves out.
EXTRAS = {
    "lab": [
        "codecarbon",
        "jinja2",
        "librosa",
        "pandas",
        "plotly",
        "pooch",
        "requests",
        "scipy",
        "sklearn",
        "streamlit",
        "timm",
        "torch",
        "torchvision",
    ],
    "bench": ["onnx", "onnxruntime"],
    "cluster": ["dask", "distributed"],
}


class _Parser(argparse.ArgumentParser):
    """argparse says what is wrong in three lines; people read one."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"{self.prog}: {message}; see {self.prog} --help\n")


class ProgressBar:
    """A line on stderr that counts; plain lines every ten percent where stderr is not a terminal."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.started = time.monotonic()
        self.shown = -1
        self.width = 0

    def __call__(self, done: int, total: int, message: str) -> None:
        share = done / total if total else 1.0
        seconds = time.monotonic() - self.started
        if self.live:
            bar = "█" * round(24 * share) + "░" * (24 - round(24 * share))
            line = f"{self.title} {bar} {done}/{total}  {seconds:.0f} s  {message}"[:118]
            self.stream.write("\r" + line.ljust(self.width))
            self.width = len(line)
            if done == total:
                self.stream.write("\n")
        elif int(10 * share) > self.shown:
            self.shown = int(10 * share)
            self.stream.write(f"{self.title}: {done}/{total} after {seconds:.0f} s ({message})\n")
        self.stream.flush()


def _print_json(document: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first is left-aligned, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _needs(package: str) -> None:
    """What a base install lacks is said at once, not after the minutes that it can do without."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(name=package)


def _app(arguments: argparse.Namespace) -> int:
    from qmoe_core import bundles
    from qmoe_core.runtime.store import Store

    _needs("streamlit")
    bundles.load()  # a damaged install says so here, not in a browser
    store = Store()  # and so does a bucket for which a package is missing
    if store.remote and arguments.public:
        raise ConfigError(
            f"--public: the store {store.address} is a bucket, in which visitors cannot be kept apart; "
            "set QMOE_STORE to a folder"
        )
    command = [
        sys.executable,
        "-m",
        "dashboard.launch",
        "--server.port",
        str(arguments.port),
        "--server.address",
        arguments.address,
        "--server.headless",
        "true" if arguments.no_browser else "false",
        *(["--public"] if arguments.public else []),
    ]
    if not arguments.public and arguments.address not in ("localhost", "127.0.0.1", "::1"):
        print(
            f"qmoe: whoever reaches {arguments.address} can use this machine’s microphone and read its "
            "folders of sounds; with --public they cannot",
            file=sys.stderr,
        )
    os.chdir(bundles.shipped().parent)  # where dashboard/ and .streamlit/config.toml lie
    os.execv(command[0], command)


def _settings(arguments: argparse.Namespace, loaded: Any) -> Any:
    from qmoe_core.experts.spec import parse_names

    changes: dict[str, Any] = {
        "alpha": arguments.alpha,
        "top_k": arguments.top_k,
        "curiosity": arguments.curiosity,
        "mc_samples": arguments.mc_samples,
        "cheap": arguments.cheap,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    if arguments.normalise:
        changes["normalise"] = True
    if arguments.experts is not None:
        changes["experts"] = parse_names(arguments.experts, setting="--experts")
    return loaded.settings(**changes)


def _classify(arguments: argparse.Namespace) -> int:
    from qmoe_core import bundles, serve
    from qmoe_core.audio import decode

    loaded = bundles.load(arguments.bundle)
    settings = _settings(arguments, loaded)
    results: list[Classification] = []
    failed = False
    for file in arguments.files:
        try:
            source = sys.stdin.buffer.read(decode.MAX_BYTES + 1) if file == "-" else file
            name = "standard input" if file == "-" else None
            result = serve.classify(serve.load(source, loaded, name=name), loaded, settings)
        except UserError as error:
            print(f"qmoe: {error}", file=sys.stderr)
            failed = True
            continue
        results.append(result)
        if not arguments.json:
            _print_classification(result)
    if arguments.json:
        documents = [result.to_json() for result in results]
        if len(arguments.files) == 1:
            if documents:
                _print_json(documents[0])
        else:
            _print_json(documents)
    return EXIT_USER_ERROR if failed else 0


def _listen(arguments: argparse.Namespace) -> int:
    from qmoe_core import bundles
    from qmoe_core.live import terminal
    from qmoe_core.live.detections import Rules

    if arguments.devices:
        print(terminal.device_list())
        return 0
    loaded = bundles.load(arguments.bundle)
    rules = Rules(
        threshold=Rules.threshold if arguments.threshold is None else arguments.threshold,
        thresholds=terminal.parse_thresholds(arguments.class_threshold, loaded.classes),
        abstain=arguments.abstain,
    )

    def remark(sentence: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads what is only said by the way
            print(f"qmoe: {sentence}", file=sys.stderr, flush=True)

    show = terminal.printing(arguments.json, live=arguments.file is None)
    keep = terminal.logging_to(arguments.log, remark) if arguments.log else None

    def tell(entry: Any) -> None:
        if keep:
            keep(entry)  # first: whoever reads the output may be gone
        show(entry)

    listening = terminal.Listening(loaded, _settings(arguments, loaded), rules, tell, remark)
    if arguments.file is None:
        pipeline = listening.to_microphone(arguments.device, arguments.rate, arguments.seconds)
    elif arguments.file == "-":
        pipeline = listening.to_stream(sys.stdin.buffer, arguments.rate, arguments.format)
    else:
        pipeline = listening.to_file(arguments.file, arguments.speed)
    print(f"qmoe: {terminal.summary(pipeline)}", file=sys.stderr)
    return 0


def _print_classification(result: Classification) -> None:
    whole, u = result.whole, result.whole.uncertainty
    print(f"{result.file}: {whole.label}, {whole.probability:.0%}")
    agreeing = len(whole.agreeing)
    print(
        f"  {agreeing} of {len(whole.experts)} experts say {whole.label}; uncertainty {u.total:.3f} nats "
        f"(aleatoric {u.aleatoric:.3f}, epistemic {u.epistemic:.3f})"
    )
    rows = [("  expert", "label", "probability", "KL", "routing", "chosen")]
    rows += [
        (
            f"  {expert.name}",
            expert.label,
            f"{expert.probabilities.max():.3f}",
            f"{expert.disagreement_kl:.4f}",
            f"{expert.routing_probability:.3f}" if expert.in_mixture else "–",
            "yes" if expert.selected else "",
        )
        for expert in whole.experts
    ]
    print(_table(rows))
    if len(result.windows) > 1:
        for window in result.windows:
            print(f"  {window.start_s:7.1f} – {window.end_s:.1f} s: {window.label}, {window.probability:.0%}")
    for note in result.notes:
        print(f"  note: {note}")


def _data_list(arguments: argparse.Namespace) -> int:
    from qmoe_core import datasets

    rows = []
    for name, path in datasets.available().items():
        try:
            manifest = datasets.open_dataset(path)
        except UserError as error:
            rows.append(
                {
                    "name": name,
                    "path": str(path),
                    "clips": 0,
                    "classes": 0,
                    "folds": None,
                    "problem": str(error),
                }
            )
            continue
        folds = None if manifest.folds is None else len(set(manifest.folds.tolist()))
        rows.append(
            {
                "name": name,
                "path": str(path),
                "clips": len(manifest),
                "classes": len(manifest.classes),
                "folds": folds,
                "problem": None,
            }
        )
    if arguments.json:
        _print_json(rows)
        return 0
    if not rows:
        print("No dataset found; looked in " + ", ".join(str(home) for home in datasets.homes()))
        return 0
    head = [("name", "clips", "classes", "folds", "path")]
    print(
        _table(
            head
            + [
                (
                    r["name"],
                    str(r["clips"]),
                    str(r["classes"]),
                    str(r["folds"] or "–"),
                    r["problem"] or r["path"],
                )
                for r in rows
            ]
        )
    )
    return 0


def _data_validate(arguments: argparse.Namespace) -> int:
    from qmoe_core import datasets

    found = datasets.validate(arguments.path, decode=True, progress=ProgressBar("reading"))
    manifest, errors = found.manifest, len(found.errors)
    warnings = len(found.problems) - errors
    folds = None if manifest.folds is None else len(set(manifest.folds.tolist()))
    if arguments.json:
        _print_json(
            {
                "path": arguments.path,
                "media": manifest.media,
                "files": found.files,
                "clips": len(manifest),
                "classes": len(manifest.classes),
                "folds": folds,
                "errors": errors,
                "warnings": warnings,
                "problems": [
                    {"severity": p.severity, "file": p.file, "message": p.message} for p in found.problems
                ],
            }
        )
    else:
        for problem in found.problems:
            print(f"{problem.severity}: {problem}")
        print(
            f"{arguments.path}: {errors} errors, {warnings} warnings; {found.files} files read, "
            f"{len(manifest)} clips ({manifest.media}), {len(manifest.classes)} classes, "
            f"{folds or 'no'} official folds"
        )
    return EXIT_USER_ERROR if errors else 0


def _data_download(arguments: argparse.Namespace) -> int:
    from qmoe_core import datasets
    from qmoe_core.datasets import download

    source = download.source(arguments.name)
    print(f"{source.title}\nlicence: {source.licence}\ncite: {source.citation}", file=sys.stderr)
    path = download.download(
        source,
        url=arguments.url,
        progress=ProgressBar("downloading"),
        unpacking=ProgressBar("unpacking"),
    )
    clips = len(datasets.open_dataset(path))
    if arguments.json:
        _print_json({"name": source.name, "path": str(path), "clips": clips, "licence": source.licence})
    else:
        print(f"{source.name}: {clips} clips in {path}")
    return 0


def _data_import(arguments: argparse.Namespace) -> int:
    from qmoe_core import datasets
    from qmoe_core.datasets import imported

    made = imported.import_csv(
        Path(arguments.csv),
        datasets.kept(),
        arguments.name,
        skip_bad=arguments.skip_bad,
        progress=ProgressBar("reading"),
    )
    manifest = datasets.open_dataset(made.root)
    if arguments.json:
        _print_json(
            {
                "name": manifest.name,
                "path": str(made.root),
                "rows": made.rows,
                "dim": made.dim,
                "dtype": made.dtype,
                "classes": list(manifest.classes),
                "skipped": made.skipped,
                "unused_columns": list(made.unused),
            }
        )
        return 0
    for what, count in made.skipped.items():
        print(f"left out: {count} rows with {what}")
    if made.unused:
        print(f"columns not used: {', '.join(made.unused)}")
    print(
        f"{manifest.name}: {made.rows} clips × {made.dim} numbers ({made.dtype}), "
        f"{len(manifest.classes)} classes; qmoe train {manifest.name}"
    )
    return 0


def _embed(arguments: argparse.Namespace) -> int:
    from qmoe_core import datasets, embedders
    from qmoe_core.embedders.embed import embed_dataset
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store

    manifest = datasets.open_dataset(arguments.dataset)
    embedder = embedders.for_dataset(manifest, arguments.embedder, weights=arguments.weights)
    started = time.perf_counter()
    context = Context(Store(), progress=ProgressBar)
    embeddings = embed_dataset(manifest, embedder, context, title=f"embedding with {embedder.id}")
    seconds = time.perf_counter() - started
    document = {
        "dataset": manifest.name,
        "embedder": embedder.id,
        "clips": len(manifest),
        "dim": embedder.dim,
        "seconds": seconds,
        "finite": bool((embeddings == embeddings).all()),
    }
    if arguments.json:
        _print_json(document)
    else:
        print(
            f"{manifest.name}: {len(manifest)} clips × {embedder.dim} numbers with {embedder.id}, "
            f"{seconds:.1f} s"
        )
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from qmoe_core import config as configuration
    from qmoe_core import datasets
    from qmoe_core.experts.spec import NAMES, parse_names
    from qmoe_core.training import run

    _needs("torch")
    settings = list(arguments.set)
    if arguments.protocol:
        settings.append(f"evaluation.protocol={arguments.protocol}")
    if arguments.selection:
        settings.append(f"evaluation.selection={arguments.selection}")
    mixtures = [parse_names(text, setting="--moe") for text in arguments.moe]
    asked = arguments.protocol or arguments.config or any("evaluation.protocol" in text for text in settings)
    if not asked and datasets.open_dataset(arguments.dataset).folds is None:
        settings.append("evaluation.protocol=grouped")
        print(
            f"{arguments.dataset} has no folds of its own: they are grouped by recording (--protocol)",
            file=sys.stderr,
        )
    report = run.train(
        arguments.dataset,
        embedder=arguments.embedder,
        weights=arguments.weights,
        experts=NAMES if arguments.experts is None else parse_names(arguments.experts, setting="--experts"),
        mixtures=mixtures,
        config=configuration.load(arguments.config, settings),
        seeds=arguments.seeds,
        workers=arguments.workers,
        bundle=arguments.bundle,
        progress=ProgressBar,
    )
    if arguments.json:
        _print_json(report.to_json())
        return 0
    print(
        f"{report.dataset}: {report.embedder}, {report.protocol} folds, epoch by {report.selection}, "
        f"{report.seeds} seed(s), weighted F1 on test folds"
    )
    rows = [("", "parameters", "F1", "± deviation", "n")]
    rows += [
        (r.name, f"{r.parameters:,}", f"{r.f1_mean:.3f}", f"± {r.f1_std:.3f}", str(len(r.f1_folds)))
        for r in report.rows
    ]
    print(_table(rows))
    print(
        f"{report.seconds:.1f} s, of it {report.compose_seconds:.1f} s for mixtures; "
        f"{report.trained} tasks trained, {report.found} found in the store"
    )
    if report.leaking_sources:
        print(
            f"{report.leaking_sources} source recordings have clips on both sides of a fold: F1 is too high"
        )
    if report.bundle:
        print(f"bundle written: {report.bundle}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from qmoe_core import bundles
    from qmoe_core.bundles import export
    from qmoe_core.experts.spec import parse_names

    loaded = bundles.load(arguments.bundle)
    experts = None if arguments.experts is None else parse_names(arguments.experts, setting="--experts")
    write = export.export_onnx if arguments.format == "onnx" else export.export_packed
    path = write(loaded, arguments.out, experts=experts)
    size, folder = path.stat().st_size, sum(file.bytes for file in loaded.manifest.files.values())
    usual = loaded.settings().experts if arguments.format == "onnx" else loaded.experts
    names = [name for name in loaded.experts if name in (experts or usual)]
    packed = sum(map(loaded.expert_bytes, names)) + loaded.manifest.files[bundles.ROUTER_FILE].bytes
    if arguments.json:
        _print_json(
            {
                "file": str(path),
                "format": arguments.format,
                "bytes": size,
                "experts": names,
                "packed_bytes": packed,
                "bundle": loaded.name,
                "bundle_bytes": folder,
                "digest": loaded.digest,
            }
        )
    else:
        print(
            f"{path}: {arguments.format}, {size:,} bytes with {', '.join(names)}; packed, these and the "
            f"router have {packed:,}, and the whole bundle {loaded.name} {folder:,}"
        )
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from qmoe_core import config as configuration
    from qmoe_core.paper.report import reproduce as run
    from qmoe_core.paper.report import writing

    _needs("torch")
    started = time.monotonic()
    report = run.reproduce(
        arguments.out,
        names=arguments.dataset,
        quick=arguments.quick,
        preset=arguments.preset,
        embedder=arguments.embedder,
        weights=arguments.weights,
        config=configuration.load(arguments.config, arguments.set),
        seeds=arguments.seeds,
        workers=arguments.workers,
        fresh=arguments.fresh,
        progress=ProgressBar,
    )
    if arguments.json:
        _print_json(writing.to_json(report))
        return 0
    for text in report.summary:
        print(text)
    print(f"{time.monotonic() - started:.1f} s; report written: {Path(arguments.out) / writing.PAGE}")
    return 0


def _runs(arguments: argparse.Namespace) -> int:
    from qmoe_core.runtime.store import Store

    store = Store(arguments.store)
    if arguments.action == "list":
        entries = store.list(arguments.kind)
        rows = [
            {"kind": e.kind, "key": e.key, "created": e.created, "bytes": e.size, **_brief(e.metadata)}
            for e in entries
        ]
        if arguments.json:
            _print_json(rows)
        elif not rows:
            print(f"no runs in {store.address}")
        else:
            head = [("key", "kind", "bytes", "created", "what")]
            print(
                _table(
                    head
                    + [
                        (
                            r["key"][:12],
                            r["kind"],
                            f"{r['bytes']:,}",
                            time.strftime("%Y-%m-%d %H:%M", time.localtime(r["created"])),
                            " ".join(str(v) for k, v in r.items() if k in _BRIEF),
                        )
                        for r in rows
                    ]
                )
            )
        return 0
    if arguments.action == "show":
        entry = store.resolve(arguments.key)
        _print_json(
            {
                "kind": entry.kind,
                "key": entry.key,
                "created": entry.created,
                "fields": entry.fields,
                "metadata": entry.metadata,
                "tensors": {name: list(t.shape) for name, t in entry.tensors.items()},
            }
        )
        return 0
    if arguments.action == "verify":
        checked = store.verify()
        document = {
            "checked": checked.checked,
            "damaged": [{"path": str(r.path), "reason": r.reason} for r in checked.damaged],
        }
        if checked.others:
            document["other_versions"] = [{"path": str(r.path), "reason": r.reason} for r in checked.others]
        if arguments.json:
            _print_json(document)
        else:
            print(
                f"{checked.checked} entries checked, {len(checked.damaged)} damaged and set aside, "
                f"in {store.address}"
            )
            if checked.others:
                print(f"{len(checked.others)} entries of another version left as they are")
            for report in (*checked.damaged, *checked.others):
                print(f"  {report.path}: {report.reason}")
        return EXIT_USER_ERROR if checked.damaged else 0
    removed = store.gc(older_than_days=arguments.older_than, dry_run=arguments.dry_run)
    if arguments.json:
        _print_json(
            {
                "entries": [entry.key for entry in removed.entries],
                "quarantined": removed.quarantined,
                "unfinished": removed.unfinished,
                "bytes": removed.bytes,
                "dry_run": arguments.dry_run,
            }
        )
    else:
        verb = "would be removed" if arguments.dry_run else "removed"
        print(
            f"{len(removed.entries)} entries, {removed.quarantined} damaged, "
            f"{removed.unfinished} unfinished: "
            f"{removed.bytes:,} bytes {verb} from {store.address}"
        )
    return 0


def _store(arguments: argparse.Namespace) -> int:
    from qmoe_core.runtime.store import Store, backup

    store = Store(arguments.store)
    if arguments.action == "backup":
        saved = backup.save(store, arguments.file, ProgressBar("writing"))
        for sentence in saved.left_out:
            print(f"qmoe: left out: {sentence}", file=sys.stderr)
        if arguments.json:
            _print_json({"path": str(saved.path), "store": store.address, **_fields(saved)})
        else:
            print(f"{saved.path}: {saved.entries} entries, {saved.files} files, {saved.bytes:,} bytes")
        return 0
    restored = backup.restore(store, arguments.file, ProgressBar("reading"))
    if arguments.json:
        _print_json({"path": str(arguments.file), "store": store.address, **_fields(restored)})
    else:
        print(
            f"{store.address}: {restored.written} entries, bundles and files restored, "
            f"{restored.unchanged} were there"
        )
    return 0


def _fields(found: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(found).items() if name != "path"}


def _bench(arguments: argparse.Namespace) -> int:
    from qmoe_core.experts.spec import NAMES, parse_names
    from qmoe_core.measure import bench
    from qmoe_core.runtime.store import Store

    what = arguments.what
    experts = parse_names(arguments.experts, setting="--experts") if arguments.experts else NAMES
    if what == "memory":
        report = bench.run_memory(arguments.bundle or ())
    elif what == "size":
        report = bench.run_size(bench.parse_shape(arguments.shape), experts)
    elif what == "energy":
        report = bench.run_energy(
            shape=bench.parse_shape(arguments.shape),
            bundle=arguments.bundle,
            experts=experts,
            repetitions=arguments.repetitions,
            block_s=arguments.block_seconds,
            country=arguments.country,
            per_day=arguments.per_day,
            progress=ProgressBar("energy"),
        )
    else:
        report = bench.run_latency(
            shape=bench.parse_shape(arguments.shape),
            bundle=arguments.bundle,
            experts=experts,
            peers=not arguments.no_peers,
            n=arguments.n,
            batch=arguments.batch,
            cold=arguments.cold,
            progress=ProgressBar("latency"),
        )
        if arguments.figure:
            bench.figure(report, Path(arguments.figure))
    bench.keep(report, Store())
    if arguments.json:
        _print_json(report.to_json())
        return 0
    print(_bench_table(report))
    where = report.environment
    if what == "energy":
        trained = where["training"]
        print(
            f"training ({trained['what']}): {trained['kwh']:.3g} kWh, {trained['source']}; "
            "serving has used as much after"
        )
        print(
            "; ".join(f"{r['name']} {r['deployment']['break_even_inferences']:,.0f}" for r in report.rows)
            + " inferences"
        )
    print(
        f"{where['processor']}, {where['cores']} cores, {', '.join(where['vector_extensions'])}"
        f"{', virtual machine' if where['virtual_machine'] else ''}; load {where['load_average'][0]:.1f}"
    )
    return 0


_BENCH_COLUMNS = {
    "latency": (
        "name",
        "n",
        "p50_us",
        "p95_us",
        "p99_us",
        "mean_us",
        "std_us",
        "speedup_vs_fp32",
        "ci95",
        "speedup_vs_peer",
        "p_holm",
    ),
    "energy": (
        "name",
        "source",
        "n",
        "cpu_s_per_million",
        "gross_mj",
        "cpu_mj",
        "ram_mj",
        "net_mj",
        "co2_ug",
        "ratio_vs_fp32",
        "ci95",
    ),
    "memory": ("name", "n", "peak_bytes", "experts_bytes", "seconds", "heavy_imports"),
    "size": ("name", "parameters", "bytes", "reduction_vs_fp32", "paper_kb"),
}


def _bench_table(report: Any) -> str:
    columns = _BENCH_COLUMNS[report.what.partition("-")[0]]
    return _table([columns] + [[_cell(row[column]) for column in columns] for row in report.rows])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return "–".join(_cell(part) for part in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _sweep_alpha(arguments: argparse.Namespace) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import sweep

    loaded = bundles.load(arguments.bundle)
    clips = sweep.judged(loaded)
    alphas = sweep.ALPHAS if arguments.alphas is None else sweep.parse_alphas(arguments.alphas)
    settings = _settings(arguments, loaded)
    predicted = loaded.predict_out_of_fold(settings)
    swept = sweep.alpha_sweep(clips.voices, clips.labels, settings, alphas, predicted)
    if arguments.json:
        _print_json({"bundle": loaded.name, **swept.to_json()})
        return 0
    experts = swept.settings.experts
    head = ("α", "F1", "accuracy", "ECE", "epistemic", "experts run", "route flips", "label flips", *experts)
    rows = [
        (
            f"{alpha:g}",
            f"{swept.f1[i]:.3f}",
            f"{swept.accuracy[i]:.3f}",
            f"{swept.ece[i]:.3f}",
            f"{swept.epistemic[i]:.4f}",
            f"{swept.runs[i]:.2f}",
            f"{swept.route_flips[i]:.1%}",
            f"{swept.label_flips[i]:.1%}",
            *(f"{share:.3f}" for share in swept.utilisation[i]),
        )
        for i, alpha in enumerate(swept.alphas)
    ]
    print(_table([head, *rows]))
    print(
        f"{len(clips.labels)} clips of {loaded.name}, out of fold; {swept.settings.curiosity}, "
        f"top {swept.settings.top_k}; {1e3 * swept.seconds:.0f} ms"
    )
    return 0


def _sweep_curiosity(arguments: argparse.Namespace) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import distillation

    loaded = bundles.load(arguments.bundle)
    found = distillation.compare(loaded, _settings(arguments, loaded), timed=True)
    if arguments.json:
        _print_json(found.to_json())
        return 0
    rows: list[Sequence[str]] = [("", "ρ", "95 % interval", "ρ, all folds", "p50 µs", "p95 µs")]
    for row in found.rows:
        rank, time_ = row.rank, row.latency
        ranks = (
            (f"{rank.within:.3f}", f"{rank.low:.3f}–{rank.high:.3f}", f"{rank.pooled:.3f}") if rank else "–––"
        )
        rows.append((row.name, *ranks, *((_cell(time_.p50_us), _cell(time_.p95_us)) if time_ else "––")))
    print(_table(rows))
    for title, key in (("F1", "f1"), ("agreement", "agreement"), ("experts run", "runs")):
        figures = [(row.name, *(f"{value:.3f}" for value in getattr(row, key))) for row in found.rows]
        print("\n" + _table([(title, *(f"α = {alpha:g}" for alpha in found.alphas)), *figures]))
    settings, where = found.settings, found.environment or {}
    print(
        f"\n{'+'.join(settings.experts)}, top {settings.top_k}; {found.clips} clips of {found.bundle}, "
        f"{found.folds} folds, each judged by experts, router and head that had not seen it. ρ: Spearman's, "
        "of what α rewards with the true disagreement, mean over folds; agreement: share of clips that go to "
        "the same experts as with disagreement. "
        f"Latency at α = {settings.alpha:g}: {distillation.CALLS} calls each, "
        f"interleaved, one thread, {where.get('processor')}."
    )
    return 0


def _sweep_bits(arguments: argparse.Namespace) -> int:
    from qmoe_core import bundles
    from qmoe_core.evaluation import formats
    from qmoe_core.measure import bench
    from qmoe_core.runtime.store import Store

    loaded = bundles.load(arguments.bundle)
    store = Store()
    latency, energy = bench.last("latency", store), bench.last("energy", store)
    rows = formats.formats(loaded, latency, energy)
    layers = range(len(loaded.config.expert.hidden))
    grids = [grid for layer in layers for grid in formats.weight_grids(loaded, layer)]
    measured = {what.what: formats.measured_on(what, loaded) for what in (latency, energy) if what}
    if arguments.json:
        _print_json(
            {
                "bundle": loaded.name,
                "protocol": loaded.provenance.protocol,
                "selection": loaded.provenance.selection,
                "measured_on": measured,
                "rows": [row.to_json() for row in rows],
                "grids": [
                    {
                        "name": grid.name,
                        "layer": grid.layer,
                        "bits": grid.bits,
                        "levels": grid.levels,
                        "zeros": grid.zeros,
                        "entropy_bits": grid.entropy_bits,
                    }
                    for grid in grids
                ],
            }
        )
        return 0
    zeros = {grid.name: f"{grid.zeros:.1%}" for grid in grids if grid.layer == 0}
    head = ("", "bits", "F1", "± deviation", "% of 16-bit", "bytes", "p50 µs", "p99 µs", "mJ", "zero weights")
    print(
        _table(
            [head]
            + [
                (
                    row.name,
                    _cell(row.bits),
                    f"{row.f1:.3f}",
                    f"± {row.f1_std:.3f}",
                    _cell(row.share_of_16bit and 100.0 * row.share_of_16bit),
                    f"{row.bytes:,}",
                    _cell(row.p50_us),
                    _cell(row.p99_us),
                    _cell(row.energy_mj),
                    zeros.get(row.name, "–"),
                )
                for row in rows
            ]
        )
    )
    for what in ("latency", "energy"):
        print(f"{what}: {measured.get(what) or f'not measured yet, see qmoe bench {what}'}")
    return 0


def _sweep_ood(arguments: argparse.Namespace) -> int:
    from qmoe_core import config as configuration
    from qmoe_core import datasets, embedders
    from qmoe_core.embedders.embed import embed_dataset
    from qmoe_core.evaluation import ood
    from qmoe_core.experts.spec import parse_names
    from qmoe_core.routing.mixing import Settings
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.store import Store
    from qmoe_core.training.crossval import Subject

    _needs("torch")
    context = Context.of(Store(), arguments.workers, ProgressBar)
    experts = parse_names(arguments.experts, setting="--experts")
    config = configuration.load(arguments.config, arguments.set)
    manifest = datasets.open_dataset(arguments.dataset)
    embedder = embedders.for_dataset(manifest, arguments.embedder, weights=arguments.weights)
    embeddings = embed_dataset(manifest, embedder, context)
    reports = []
    for names in arguments.held_out:
        held = ood.hold_out(
            Subject.of(manifest, embedder.id, embeddings),
            [name.strip() for name in names.split(",")],
            experts,
            config,
            context,
            f"training without {names}",
        )
        reports.append(ood.report(held, Settings.of(config.router, experts)))
        if not arguments.json:
            _print_held_out(reports[-1])
    if arguments.json:
        documents = [report.to_json() for report in reports]
        _print_json(documents[0] if len(documents) == 1 else documents)
    return 0


def _print_held_out(report: Any) -> None:
    rows = [("uncertainty", "AUROC", "95 % interval")]
    rows += [
        (name, f"{found.auroc:.3f}", f"{found.low:.3f}–{found.high:.3f}")
        for name, found in report.detection.items()
    ]
    print(_table(rows))
    print(
        f"{report.n_strange} clips of {', '.join(report.held_out)} against {report.n_known} of the other "
        f"{len(report.classes)} classes of {report.dataset}, {report.folds} {report.protocol} folds, "
        f"seed {report.seed}; accuracy on the known clips {report.accuracy:.3f}"
    )


def _claims(arguments: argparse.Namespace) -> int:
    from qmoe_core.paper import claims
    from qmoe_core.paper.claim import THEMES

    only = None if arguments.only is None else claims.parse_only(arguments.only)
    started = time.perf_counter()
    findings = list(claims.run(only, progress=ProgressBar("claims")))
    if arguments.json:
        _print_json([finding.to_json() for finding in findings])
        return 0
    for theme, title in THEMES.items():
        for number, finding in enumerate(one for one in findings if one.claim.theme == theme):
            if number == 0:
                print(f"{title}\n")
            verdict = finding.ruling.verdict.replace("-", " ")
            print(f"{finding.claim.id:4}. {finding.claim.claim} [{finding.claim.source}]")
            print(f"      {verdict}: {finding.ruling.ours} {finding.ruling.why}\n")
    count = claims.tally(findings)
    print(
        f"{len(findings)} claims: {count['holds']} hold, {count['does-not-hold']} do not, "
        f"{count['not-testable']} not testable here; {time.perf_counter() - started:.0f} s"
    )
    return 0


_BRIEF = ("expert", "experts", "dataset", "protocol", "fold", "seed", "f1", "embedder")


def _brief(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: metadata[key] for key in _BRIEF if key in metadata}


def _mixing(parser: argparse.ArgumentParser, *, one_alpha: bool = True) -> None:
    parser.add_argument("--bundle", help="bundle folder or name (default: the one that ships)")
    if one_alpha:
        parser.add_argument("--alpha", type=float, help="curiosity α, 0 to 1000")
    else:
        parser.add_argument("--alphas", help="such as 0,0.3,10 (default: 51 values from 0 to 1000)")
        parser.set_defaults(alpha=None)
    parser.add_argument("--top-k", type=int, help="how many experts answer")
    parser.add_argument("--curiosity", help="disagreement, distilled, router-mc or none")
    parser.add_argument(
        "--normalise", action="store_true", help="divide d_i by its mean over the default set"
    )
    parser.add_argument("--mc-samples", type=int, help="MC-dropout passes of the router")
    parser.add_argument("--experts", help="experts in the mixture, such as bitnet,q4,q8")
    parser.add_argument(
        "--cheap", help="expert that `distilled` asks first (default: the mixture's cheapest)"
    )


def _many_machines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask cluster that takes the work, such as tcp://10.0.0.5:8786 (default: this machine)",
    )


def _positive(text: str) -> float:
    """A number above 0.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _days(text: str) -> float:
    days = float(text)
    if not 0.0 <= days < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} days; accepted is 0 or more")
    return days


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="qmoe",
        description="What does quantizing a sound classifier cost, and does its uncertainty know?",
    )
    top.add_argument("--version", action="version", version=f"qmoe {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    app = commands.add_parser("app", help="open the dashboard")
    app.add_argument("--port", type=int, default=8501)
    app.add_argument("--address", default="localhost", help="where to listen (default: this machine only)")
    app.add_argument(
        "--public",
        action="store_true",
        help="for visitors: no microphone of this machine, no folders, bounded jobs and uploads, each on "
        "their own; it still listens to this machine only: give --address, or put a proxy before it",
    )
    app.add_argument("--no-browser", action="store_true", help="do not open a browser")
    app.set_defaults(run=_app)

    classify = commands.add_parser("classify", help="judge recordings")
    classify.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="WAV, FLAC, Ogg or MP3 (PNG or JPEG for a bundle of pictures); - reads standard input",
    )
    _mixing(classify)
    classify.add_argument("--json", action="store_true")
    classify.set_defaults(run=_classify)

    listen = commands.add_parser("listen", help="listen to a microphone, a file or standard input, and log")
    listen.add_argument(
        "file", nargs="?", metavar="FILE", help="a recording; - for raw samples (default: a microphone)"
    )
    _mixing(listen)
    listen.add_argument("--device", help="number or name of the microphone")
    listen.add_argument("--devices", action="store_true", help="list the microphones of this machine")
    listen.add_argument("--rate", type=int, help="Hz, of the microphone or of raw samples")
    listen.add_argument("--format", choices=("s16le", "f32le"), default="s16le", help="of raw samples, mono")
    listen.add_argument("--speed", type=_positive, help="of a file; 1 is real time (default: no waiting)")
    listen.add_argument("--seconds", type=_positive, help="end then (of a microphone)")
    listen.add_argument("--threshold", type=float, metavar="P", help="least probability accepted")
    listen.add_argument(
        "--class-threshold",
        action="append",
        default=[],
        metavar="LABEL=P",
        help="for a class; may be repeated",
    )
    listen.add_argument("--abstain", type=float, metavar="NATS", help="most epistemic uncertainty accepted")
    listen.add_argument(
        "--log", type=Path, metavar="FILE", help="also add every detection to this file, as a line of JSON"
    )
    listen.add_argument("--json", action="store_true", help="a line of JSON for each detection")
    listen.set_defaults(run=_listen)

    data = commands.add_parser("data", help="datasets")
    actions = data.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    listing = actions.add_parser("list", help="datasets that can be named")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=_data_list)
    validate = actions.add_parser("validate", help="everything that is wrong with a dataset, at once")
    validate.add_argument("path", help="folder or name")
    validate.add_argument("--json", action="store_true")
    validate.set_defaults(run=_data_validate)
    download = actions.add_parser("download", help="fetch a dataset; what is stopped goes on the next time")
    download.add_argument("name", help="esc50, urbansound8k or quinn")
    download.add_argument("--url", help="another address of the same archive")
    download.add_argument("--json", action="store_true")
    download.set_defaults(run=_data_download)
    importing = actions.add_parser("import", help="take ready embeddings: the paper's CSV")
    importing.add_argument("csv", help="columns folder, name, label, category, class_id, 0 … D−1")
    importing.add_argument("--name", help="of the dataset (default: the file's)")
    importing.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used")
    importing.add_argument("--json", action="store_true")
    importing.set_defaults(run=_data_import)

    embed = commands.add_parser("embed", help="embed a dataset")
    embed.add_argument("dataset", help="folder or name, with options behind a colon: esc50:categories")
    embed.add_argument(
        "--embedder",
        default="logmel-stats",
        help="logmel-stats, efficientnet_b3, any timm name; variants behind @, such as @no-normalisation",
    )
    embed.add_argument("--weights", help="safetensors file for a timm model, or random")
    _many_machines(embed)
    embed.add_argument("--json", action="store_true")
    embed.set_defaults(run=_embed)

    train = commands.add_parser("train", help="train and evaluate experts and mixtures")
    train.add_argument("dataset", help="folder or name, with options behind a colon: esc50:categories")
    train.add_argument("--embedder", default="logmel-stats")
    train.add_argument("--weights", help="safetensors file for a timm model, or random")
    train.add_argument("--experts", help="such as q4,q8,bitnet (default: all)")
    train.add_argument(
        "--moe", action="append", default=[], metavar="EXPERTS", help="a mixture; may be repeated"
    )
    train.add_argument("--protocol", help="official, random or grouped")
    train.add_argument("--selection", help="inner-validation or best-on-test")
    train.add_argument(
        "--seeds", type=int, default=1, help="how many seeds, counted from the configuration's"
    )
    train.add_argument("--workers", type=int, default=0, help="processes (default: one for each core)")
    train.add_argument("--config", help="TOML file")
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as router.temperature=0.5"
    )
    train.add_argument("--bundle", metavar="NAME", help="write a bundle: a name, or a folder")
    _many_machines(train)
    train.add_argument("--json", action="store_true")
    train.set_defaults(run=_train)

    again = commands.add_parser("reproduce", help="the paper's tables from our runs, as one report")
    again.add_argument("--out", required=True, metavar="DIR", help="folder; an older report is replaced")
    again.add_argument(
        "--dataset", action="append", default=[], help="folder or name; may be repeated (default: esc10)"
    )
    again.add_argument(
        "--quick",
        action="store_true",
        help="in minutes, by default on the clips that ship: no recordings are needed",
    )
    again.add_argument(
        "--preset",
        default="lab",
        help="what the tables are of: lab, or paper-code (its training and protocol)",
    )
    again.add_argument("--embedder", default="logmel-stats")
    again.add_argument("--weights", help="safetensors file for a timm model, or random")
    again.add_argument("--seeds", type=int, help="how many (default: 3, with --quick 1)")
    again.add_argument("--workers", type=int, default=0, help="processes (default: one for each core)")
    again.add_argument("--config", help="TOML file, of the lab's own training")
    again.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for train")
    again.add_argument("--fresh", action="store_true", help="measure again what was measured here before")
    again.add_argument("--json", action="store_true")
    _many_machines(again)
    again.set_defaults(run=_reproduce)

    sweep = commands.add_parser("sweep", help="what α, the bit width or a strange sound does to everything")
    sweeps = sweep.add_subparsers(required=True, metavar="WHAT", parser_class=_Parser)
    alpha = sweeps.add_parser("alpha", help="α, over out-of-fold predictions; nothing is trained")
    _mixing(alpha, one_alpha=False)
    alpha.set_defaults(run=_sweep_alpha)
    curiosity = sweeps.add_parser("curiosity", help="the strategies side by side: what each finds and costs")
    _mixing(curiosity)
    curiosity.set_defaults(run=_sweep_curiosity)
    bits = sweeps.add_parser("bits", help="F1, size, time and energy of every format")
    bits.add_argument("--bundle", help="bundle folder or name (default: the one that ships)")
    bits.set_defaults(run=_sweep_bits)
    ood = sweeps.add_parser("ood", help="train without some classes: does the uncertainty notice them?")
    ood.add_argument("dataset", help="folder or name")
    ood.add_argument(
        "--held-out",
        required=True,
        action="append",
        metavar="CLASSES",
        help="such as dog,rain; may be repeated",
    )
    ood.add_argument("--embedder", default="logmel-stats")
    ood.add_argument("--weights", help="safetensors file for a timm model, or random")
    ood.add_argument("--experts", default="bitnet,q4,q8", help="of the mixture (default: bitnet,q4,q8)")
    ood.add_argument("--workers", type=int, default=0, help="processes (default: one for each core)")
    ood.add_argument("--config", help="TOML file")
    ood.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for train")
    _many_machines(ood)
    ood.set_defaults(run=_sweep_ood)
    for kind in (alpha, curiosity, bits, ood):
        kind.add_argument("--json", action="store_true")

    bench = commands.add_parser("bench", help="measure on this machine")
    kinds = bench.add_subparsers(required=True, dest="what", metavar="WHAT", parser_class=_Parser)
    shape_help = "D,hidden,…,C of experts with random weights (default: the paper's)"
    for what in ("latency", "energy", "memory", "size"):
        kind = kinds.add_parser(what)
        if what == "memory":
            kind.add_argument(
                "--bundle", action="append", help="may be repeated (default: all that are known)"
            )
        elif what != "size":
            kind.add_argument("--bundle", help="measure a bundle's own experts instead")
        kind.add_argument("--shape", default="1536,640,320,50", help=shape_help)
        kind.add_argument("--experts", help="such as q4,q8 (default: all)")
        if what == "latency":
            kind.add_argument("--n", type=int, default=2000, help="timed calls of each")
            kind.add_argument("--batch", type=int, default=1)
            kind.add_argument("--cold", action="store_true", help="empty the caches before every call")
            kind.add_argument("--no-peers", action="store_true", help="only torch fp32 beside ours")
            kind.add_argument("--figure", metavar="FILE", help="write the distributions as an HTML page")
        if what == "energy":
            kind.add_argument("--repetitions", type=int, default=3)
            kind.add_argument("--block-seconds", type=float, default=10.0, help="60 for a figure to quote")
            kind.add_argument("--country", default="FRA", help="grid, three-letter code")
            kind.add_argument("--per-day", type=float, default=1e6, help="inferences a day of a deployment")
        kind.add_argument("--json", action="store_true")
        kind.set_defaults(run=_bench)

    export = commands.add_parser("export", help="a bundle as one file, to be carried")
    export.add_argument("bundle", help="folder or name")
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="to write")
    export.add_argument(
        "--format",
        choices=("packed", "onnx"),
        default="packed",
        help="packed: for this program, with its card; onnx: waveform to decision, for ONNX Runtime",
    )
    export.add_argument(
        "--experts", help="to take along, such as bitnet,q4 (default: all; onnx: the mixture)"
    )
    export.add_argument("--json", action="store_true")
    export.set_defaults(run=_export)

    claims = commands.add_parser("claims", help="the paper's claims, each put to the test")
    claims.add_argument("--only", metavar="NUMBERS", help="such as 5,31 (default: all)")
    claims.add_argument("--json", action="store_true")
    claims.set_defaults(run=_claims)

    runs = commands.add_parser("runs", help="what is kept on disk")
    runs.add_argument(
        "--store",
        help="folder, or bucket such as s3://name/prefix (default: $QMOE_STORE, or the user's data folder)",
    )
    acts = runs.add_subparsers(required=True, dest="action", metavar="ACTION", parser_class=_Parser)
    one = acts.add_parser("list")
    one.add_argument("--kind")
    two = acts.add_parser("show")
    two.add_argument("key", help="the key, or the beginning of it")
    three = acts.add_parser("verify")
    four = acts.add_parser("gc", help="remove leftovers of killed processes, and old runs if an age is given")
    four.add_argument(
        "--older-than", type=_days, metavar="DAYS", help="also remove runs of at least this age"
    )
    four.add_argument("--dry-run", action="store_true")
    for act in (one, two, three, four):
        act.add_argument("--json", action="store_true")
        act.set_defaults(run=_runs)

    store = commands.add_parser("store", help="the store as one file, to be kept elsewhere")
    store.add_argument("--store", help="folder, or bucket (default: $QMOE_STORE, or the user's data folder)")
    saving = store.add_subparsers(required=True, dest="action", metavar="ACTION", parser_class=_Parser)
    backup = saving.add_parser("backup", help="write entries, bundles, datasets and logs into one file")
    restore = saving.add_parser("restore", help="check such a file, and put its contents into the store")
    for act in (backup, restore):
        act.add_argument("file", type=Path, metavar="FILE")
        act.add_argument("--json", action="store_true")
        act.set_defaults(run=_store)
    return top


def _run(arguments: argparse.Namespace) -> int:
    """The command, on a cluster where a scheduler is named."""
    if getattr(arguments, "scheduler", None) is None:
        return arguments.run(arguments)
    from qmoe_core.runtime import dask_cluster

    with dask_cluster.connected(arguments.scheduler):
        return arguments.run(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 2 when the user gave something wrong (said in one line on stderr); 130 when interrupted.
    """
    logging.basicConfig(level=logging.WARNING, format="qmoe: %(message)s")
    arguments = parser().parse_args(argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"qmoe: {message}", file=sys.stderr)
        return EXIT_USER_ERROR
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = next((extra for extra, packages in EXTRAS.items() if missing in packages), None)
        if extra is None:
            raise
        print(f"qmoe: this needs {error.name}: pip install 'qmoe-lab[{extra}]'", file=sys.stderr)
        return EXIT_USER_ERROR
    except (Cancelled, KeyboardInterrupt) as error:
        print(f"qmoe: {str(error) or 'stopped; what was finished is kept'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        # What is still buffered has nowhere to go, and must not be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `| head` has seen enough
            return 0
        print(f"qmoe: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    raise SystemExit(main())

"""`qmoe reproduce` and `qmoe claims`: the paper's tables and its claims."""

from __future__ import annotations

import time
from pathlib import Path

import click

from qmoe_core.cli.common import (
    Arguments,
    ProgressBar,
    command,
    json_option,
    needs,
    print_json,
    scheduler_option,
)


@command(
    "reproduce",
    help="the paper’s tables from our runs, as one report",
    example="qmoe reproduce --quick --out report",
)
@click.option("--out", required=True, metavar="DIR", help="folder; an older report is replaced")
@click.option("--dataset", multiple=True, help="folder or name; may be repeated (default: esc10)")
@click.option(
    "--quick", is_flag=True, help="in minutes, by default on the clips that ship: no recordings are needed"
)
@click.option(
    "--preset", default="lab", help="what the tables are of: lab, or paper-code (its training and protocol)"
)
@click.option("--embedder", default="logmel-stats", show_default=True, help="as for qmoe embed")
@click.option("--weights", help="safetensors file for a timm model, or random")
@click.option("--seeds", type=int, help="how many (default: 3, with --quick 1)")
@click.option("--workers", type=int, default=0, help="processes (default: one for each core)")
@click.option("--config", metavar="FILE", help="TOML file, of the lab’s own training")
@click.option("--set", multiple=True, metavar="KEY=VALUE", help="as for train")
@click.option("--fresh", is_flag=True, help="measure again what was measured here before")
@click.option(
    "--published", metavar="DIR", help="result files of the paper’s code, to check the printed values against"
)
@scheduler_option
@json_option
def reproduce(arguments: Arguments) -> int:
    from qmoe_core import config as configuration
    from qmoe_core.paper.report import reproduce as run
    from qmoe_core.paper.report import writing

    needs("torch")
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
        published=arguments.published,
        progress=ProgressBar,
    )
    if arguments.json:
        print_json(writing.to_json(report))
        return 0
    for text in report.summary:
        print(text)
    print(f"{time.monotonic() - started:.1f} s; report written: {Path(arguments.out) / writing.PAGE}")
    return 0


@command("claims", help="the paper’s claims, each put to the test", example="qmoe claims --only 5,31")
@click.option("--only", metavar="NUMBERS", help="such as 5,31 (default: all)")
@click.option("--markdown", is_flag=True, help="print a document that can be sent to the paper’s authors")
@json_option
def claims(arguments: Arguments) -> int:
    from qmoe_core.paper import claims as checks
    from qmoe_core.paper.untested import STATEMENTS
    from qmoe_core.runtime.executor import Context
    from qmoe_core.runtime.requests import Claims
    from qmoe_core.runtime.store import Store

    only = None if arguments.only is None else checks.parse_only(arguments.only)
    started = time.perf_counter()
    findings = Claims(only=only).run(Context(Store(), progress=ProgressBar))
    if arguments.json:
        print_json([finding.to_json() for finding in findings])
        return 0
    if arguments.markdown:
        print(checks.markdown(findings), end="")
        return 0
    for title, found in checks.grouped(findings).items():
        print(f"{title}\n")
        for finding in found:
            verdict = finding.ruling.verdict.replace("-", " ")
            print(f"{finding.claim.id:4}. {finding.claim.claim} [{finding.claim.source}]")
            print(f"      {verdict}: {finding.ruling.ours} {finding.ruling.why}\n")
    if only is None:
        print(f"Statements that no check here can test: {len(STATEMENTS)}\n")
        for one in STATEMENTS:
            print(f"      {one.statement} [{one.source}] It would take {one.needs}.\n")
    count = checks.tally(findings)
    print(
        f"{len(findings)} claims: {count['holds']} hold, {count['does-not-hold']} do not, "
        f"{count['not-testable']} not testable here; {time.perf_counter() - started:.0f} s"
    )
    return 0

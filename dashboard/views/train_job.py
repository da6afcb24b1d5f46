"""Train: one job: its state, progress by expert and fold, curves, result and buttons."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard.charts import palette
from dashboard.charts import train as train_charts
from dashboard.session import linked, public, switch, training
from dashboard.views import job_panel, tables, widgets, words
from dashboard.views.tables import Column
from qmoe_core import bundles, datasets, numbers
from qmoe_core.errors import UserError
from qmoe_core.experts.spec import EXPERTS
from qmoe_core.numbers import decimals
from qmoe_core.runtime import jobs
from qmoe_core.runtime.jobs import Job, Story, Train

PAGE = "train"
JOBS_LISTED = 50
GONE = "train.gone"
REFUSED = "train.refused"


def the_jobs(listed: Sequence[Job], values: dict[str, Any]) -> None:
    """The job that is shown, and a way to the others."""
    by_id = {job.id: job for job in listed[:JOBS_LISTED]}
    if values["job"]:  # an old one that a link names
        by_id |= {job.id: job for job in listed if job.id == values["job"]}
    active = [job for job in listed if job.active]
    trainings = [job for job in listed if isinstance(job.request, Train | jobs.HoldOut)]
    ours = [job for job in active if job in trainings]
    # A training that runs now, the oldest of the active; else the newest; else whatever there is.
    usual = ours[-1] if ours else trainings[0] if trainings else active[-1] if active else listed[0]
    if len(by_id) > 1:
        st.selectbox(
            "Job",
            ["", *by_id],
            key=linked.widget(PAGE, "job"),
            format_func=lambda name: named(by_id[name]) if name else "the one that runs now, or ran last",
            help="One job runs at a time on this machine, the others wait; all go on when this page is "
            "closed.",
        )
    job = by_id.get(values["job"], usual)
    if job.active:
        live(job.id)
    else:
        show(job, values["expert"])


def named(job: Job) -> str:
    """A job in a line that stays the same while it goes on: the browser names what was chosen by it."""
    submitted = time.strftime("%d %b %H:%M:%S", time.localtime(job.submitted))
    return f"{job.title}, {submitted} ({job.id[-4:]})"


@st.fragment(run_every=1.0)
def live(name: str) -> None:
    """A job that is not over, drawn again every second; when it is over, the whole page is."""
    try:
        job = jobs.get(name)
    except UserError:
        st.session_state[GONE] = True
        st.rerun()
    if not job.active:
        st.rerun()
    show(job, st.session_state.get(linked.widget(PAGE, "expert"), ""))


def show(job: Job, expert: str) -> None:
    """A job: what it is at, its folds, its curves, and what came of it."""
    with st.container(border=True):
        try:
            story = jobs.story(events_of(job.id))
        except UserError:
            st.warning("This job was removed a moment ago; what it had finished is kept.")
            return
        before = sum(other.active and other.submitted < job.submitted for other in jobs.list_jobs())
        st.subheader(widgets.plain(job.title), anchor=False)
        st.markdown(widgets.plain(training.state_of(job, before)))
        if job.state == "failed":
            widgets.error(f"{words.capital(job.error or 'no reason was written down')}.")
            if log := job.log():
                with st.expander("What it printed last"):
                    st.code(log, language=None, wrap_lines=True)
        if job.active:
            bar(job, story)
        buttons(job)
        result(job)
        progress(job, story)
        fits(job, story, expert)


def events_of(name: str) -> list[dict[str, Any]]:
    """A job's events; what was read before is not read again.

    Raises:
        StoreError: the job was removed.
    """
    known, read, position = st.session_state.get("train.events", ("", [], 0))
    if known != name:
        read, position = [], 0
    new, position = jobs.events(name, position)
    st.session_state["train.events"] = (name, [*read, *new], position)
    return st.session_state["train.events"][1]


def bar(job: Job, story: Story) -> None:
    """How far the stage is that the job is at."""
    text, share = job_panel.progress(job, time.time(), story)
    if job.state == "running" and not isinstance(job.request, jobs.Bench | jobs.Claims):
        left = training.time_left(events_of(job.id), time.time())
        text += "" if left is None else f", about {numbers.duration(left)} left of it"
    st.progress(share, widgets.plain(text))
    if story.message and job.state == "running":
        widgets.caption(story.message)


def buttons(job: Job) -> None:
    """Stop, start again, use the bundle."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if job.active:
            job_panel.stop_button(job)
        elif job.state != "done":
            st.button(
                "Resume",
                key=f"again:{job.id}",
                icon=":material/resume:",
                type="primary",
                on_click=submit,
                args=(job.request,),
                help="The same again: finished folds are found in the store.",
            )
        made = training.made_bundle(job)
        if made is None:
            return
        if made not in bundles.names():
            widgets.caption(f"The bundle {made} was removed meanwhile; starting again makes it anew.")
            st.button("Make it again", key=f"again:{job.id}", on_click=submit, args=(job.request,))
            return
        used = switch.chosen() == made
        st.button(
            "All pages use it" if used else f"Use {made} on all pages",
            key=f"use:{job.id}",
            icon=":material/check:" if used else None,
            type="primary",
            disabled=used,
            on_click=switch.use,
            args=(made,),
        )
        for file, title in (("compare.py", "Compare its experts"), ("dataset.py", "See its clips")):
            st.page_link(widgets.PAGES / file, label=title, query_params={"bundle": made})


def submit(asked: jobs.Request) -> None:
    """Start a job, or queue it; what is wrong with it is said at the top of the page."""
    try:
        job = public.submit(asked)
    except UserError as error:
        st.session_state[REFUSED] = training.problem(error)
    else:
        linked.set_to(PAGE, job=job.id, expert="")


RESULT = (
    Column("name", "Format or mixture", number=False),
    Column(
        "f1_mean",
        "F1",
        decimals(3),
        "Weighted F1, mean over folds × seeds: Σ_c n_c / n · 2·TP / (2·TP + FP + FN).",
    ),
    Column("f1_std", "±", decimals(3), "Deviation over folds × seeds, with n − 1."),
    Column("n", "n", meaning="Folds × seeds."),
    Column(
        "parameters",
        "parameters",
        lambda v: f"{v:,}",
        "Numbers that are trained; a mixture’s include its router’s.",
    ),
)


def result(job: Job) -> None:
    """What a finished training found."""
    found = job.result
    if job.state != "done" or found is None or not isinstance(job.request, Train):
        return
    rows = [{**row, "n": len(row["f1_folds"])} for row in found["rows"]]
    marks = [f"3px solid {colour(row['name'])}" for row in rows]
    tables.table(RESULT, rows, name="training", title="F1 of each expert and mixture", marks=marks)
    leak = found.get("leaking_sources") or 0
    warning = f" {leak} recordings have clips on both sides of a fold: F1 is too high." if leak else ""
    widgets.caption(
        f"Of {training.how(job.request)}: {found['trained']} folds trained, {found['found']} found in "
        f"the store.{warning}"
    )


def colour(name: str) -> str:
    """An expert's colour; ink for mixtures."""
    return palette.expert_colour(name) if name in EXPERTS else widgets.theme().ink


def progress(job: Job, story: Story) -> None:
    """Experts × folds."""
    if isinstance(job.request, jobs.Bench | jobs.Claims) or not (story.folds or story.curves):
        return
    columns = training.columns(job.request, official_folds(job.request.dataset), story)
    cells = training.grid(job, story, columns)
    several = len({seed for _, seed in columns}) > 1
    titles = [f"{fold} s{seed}" if several else fold for fold, seed in columns]
    done = sum(cell.f1 is not None for row in cells.values() for cell in row)
    n = len(columns) * len(cells)
    widgets.figure(
        train_charts.progress(cells, titles, widgets.theme()),
        alt=f"Experts by folds: {done} of {n} are done.",
        key=f"grid:{job.id}",
    )
    widgets.caption(
        f"Weighted F1 on the fold’s test clips; a dot: found in the store; …: being trained. {done} of "
        f"{n} folds are done; {training.how(job.request)}."
    )


def fits(job: Job, story: Story, asked: str) -> None:
    """Loss and F1 of one expert, a line a fold."""
    if isinstance(job.request, jobs.Bench | jobs.Claims):
        return
    part = training.part_shown(job.request)
    there = [name for name in training.rows(job.request) if any(key[0] == name for key in story.curves)]
    if not there:
        if story.folds:
            st.caption("Everything was found in the store, so nothing was fitted this time.")
        return
    key = linked.widget(PAGE, "expert")
    latest = training.latest(story, there) or there[0]
    shown = asked if asked in there else latest if latest in there else there[0]
    st.pills(
        "Curves of",
        ["", *there],
        key=key,
        required=True,
        wrap=True,
        format_func=lambda name: name or "the expert of now",
        help="Loss: cross-entropy −Σ_c y_c log q_c, class-weighted in training. F1 is the weighted one.",
    )
    if st.session_state[key] != linked.kept(PAGE)["expert"]:
        st.rerun()  # the link is the whole page's
    curves = {
        (fold, seed): epochs
        for (name, fold, seed, of), epochs in story.curves.items()
        if (name, of) == (shown, part)
    }
    if not curves:
        widgets.caption(
            f"{shown} is made from a float expert, without training of its own that could be drawn."
        )
        return
    chosen = {
        (e["fold"], e["seed"]): e["epochs"] for e in story.folds if e["expert"] == shown and "epochs" in e
    }
    held = "the inner validation clips" if part == "inner" else "the test clips"
    for column, what in zip(st.columns(2), ("loss", "f1"), strict=True):
        with column:
            widgets.figure(
                train_charts.curves(curves, chosen, shown, what, widgets.theme()),
                alt=f"{'Loss' if what == 'loss' else 'F1'} of {shown} against the epoch, {len(curves)} "
                "folds.",
                key=f"curves:{what}:{job.id}",
            )
    widgets.caption(
        f"{shown}, {len(curves)} folds. Solid: on {held}, which choose the epoch (dot); dotted: "
        f"training; {training.how(job.request)}."
    )


@st.cache_data(max_entries=32, ttl=600, show_spinner=False)
def official_folds(dataset: str) -> tuple[int, ...]:
    """Numbers of a dataset's own folds; none where it has none, or is gone."""
    try:
        manifest = datasets.open_dataset(dataset)
    except UserError:
        return ()
    return () if manifest.folds is None else tuple(sorted(set(manifest.folds.tolist())))

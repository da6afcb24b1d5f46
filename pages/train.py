"""Train: what will run and what is there already, live progress fold by fold, and bundles for every page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import streamlit as st

from dashboard.charts import palette
from dashboard.charts import train as train_charts
from dashboard.session import linked, public, switch, training
from dashboard.session.linked import Control
from dashboard.session.training import Outline
from dashboard.views import job_panel, tables, weights, widgets, words
from dashboard.views.tables import Column, decimals
from qmoe_core import bundles, datasets
from qmoe_core.embedders import OWN, models
from qmoe_core.errors import UserError
from qmoe_core.experts.spec import EXPERTS, NAMES
from qmoe_core.runtime import jobs, system
from qmoe_core.runtime.jobs import Job, Plan, Story, Train
from qmoe_core.runtime.requests import DEFAULT_MIXTURE
from qmoe_core.runtime.store import default_root

PAGE = "train"
PROTOCOLS = {"official": "the data’s own", "random": "random", "grouped": "grouped by recording"}
SELECTIONS = {"inner-validation": "inner validation", "best-on-test": "best on test"}
JOBS_LISTED = 50
MOST_SEEDS = 10
_GONE = "train.gone"
_REFUSED = "train.refused"
_SCHEDULER = "train.scheduler"
THIS_MACHINE = "this machine"
"""Not part of a link: it is a machine that this one would trust."""


def train() -> None:
    """The page, from top to bottom."""
    st.title("Train experts and mixtures", anchor=False)
    tables.style()
    listed = jobs.list_jobs()
    values = linked.controls(PAGE, controls(listed))
    if st.session_state.pop(_GONE, False):
        st.warning("The job that was shown here was removed meanwhile; what it had finished is kept.")
    if sentence := st.session_state.pop(_REFUSED, ""):
        st.error(widgets.plain(sentence))
    if listed:
        the_jobs(listed, values)
    a_new_one(listed, values)


def controls(listed: Sequence[Job]) -> list[Control]:
    """What a person can set here, and a link restores."""
    names = places(listed)
    first = names[0] if names else ""
    data = st.query_params.get("data") or st.session_state.get(linked.widget(PAGE, "data")) or first

    def text(most: int) -> Any:
        return lambda said: said if len(said) <= most and said.isprintable() else None

    def mixture(said: str) -> list[str] | None:
        asked = [part for part in said.split(",") if part]
        return [name for name in NAMES if name in asked] if set(asked) <= set(NAMES) else None

    known = {job.id for job in listed}
    return [
        Control("data", first, "the name or the folder of a dataset", text(1000)),
        Control("embedder", training.OFFLINE, "the name of an embedder", text(100)),
        Control("weights", "", "random, or the path of a safetensors file", text(1000)),
        linked.some_of("experts", NAMES, NAMES),
        Control("mix", list(DEFAULT_MIXTURE), f"names of {', '.join(NAMES)}", mixture, ",".join),
        linked.one_of("protocol", list(PROTOCOLS), usual_protocol(data)),
        linked.whole("folds", 2, 100, 5),
        linked.one_of("selection", list(SELECTIONS), "inner-validation"),
        linked.whole("seeds", 1, MOST_SEEDS, 1),
        Control("set", "", "settings such as expert.epochs=20, with ; between them", text(2000)),
        Control("name", "", "a name for the bundle", text(100)),
        Control("job", "", "a job that is here", lambda said: said if not said or said in known else None),
        linked.one_of("expert", ["", *NAMES], ""),
    ]


def places(listed: Sequence[Job]) -> list[str]:
    """Datasets that the lab knows, and those that were trained on, the newest first."""
    known = datasets.available()
    own = [job.request.dataset for job in listed if isinstance(job.request, Train)]
    folders = {str(path) for path in known.values()}
    return list(dict.fromkeys([*known, *(name for name in own if name not in folders)]))


def usual_protocol(data: str) -> str:
    """Grouped folds for a dataset that has none of its own."""
    try:
        return "official" if not data or outlined(data).folds else "grouped"
    except UserError:
        return "official"


def another_dataset() -> None:
    """The dataset was changed: its folds are as usual for it."""
    linked.set_to(PAGE, protocol=usual_protocol(st.session_state[linked.widget(PAGE, "data")] or ""))


# Jobs.


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
        st.session_state[_GONE] = True
        st.rerun()
    if not job.active:
        st.rerun()
    show(job, st.session_state.get(linked.widget(PAGE, "expert"), ""))


def show(job: Job, expert: str) -> None:
    """A job: what it is at, its folds, its curves, and what came of it."""
    with st.container(border=True):
        try:
            story = jobs.story(happened(job.id))
        except UserError:
            st.warning("This job was removed a moment ago; what it had finished is kept.")
            return
        before = sum(other.active and other.submitted < job.submitted for other in jobs.list_jobs())
        st.subheader(widgets.plain(job.title), anchor=False)
        st.markdown(widgets.plain(training.state_of(job, before)))
        if job.state == "failed":
            st.error(widgets.plain(f"{words.capital(job.error or 'no reason was written down')}."))
            if log := job.log():
                with st.expander("What it printed last"):
                    st.code(log, language=None, wrap_lines=True)
        if job.active:
            bar(job, story)
        buttons(job)
        result(job)
        progress(job, story)
        fits(job, story, expert)


def happened(name: str) -> list[dict[str, Any]]:
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
        left = training.time_left(happened(job.id), time.time())
        text += "" if left is None else f", about {training.duration(left)} left of it"
    st.progress(share, widgets.plain(text))
    if story.message and job.state == "running":
        st.caption(widgets.plain(story.message))


def buttons(job: Job) -> None:
    """Stop, start again, use the bundle."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if job.active:
            job_panel.stop_button(job)
        elif job.state != "done":
            st.button(
                "Go on",
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
            st.caption(
                widgets.plain(f"The bundle {made} was removed meanwhile; starting again makes it anew.")
            )
            st.button("Make it again", key=f"again:{job.id}", on_click=submit, args=(job.request,))
            return
        used = st.session_state.get("chosen_bundle", bundles.DEFAULT_NAME) == made
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
        st.session_state[_REFUSED] = training.problem(error)
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
    st.caption(
        widgets.plain(
            f"Of {training.how(job.request)}: {found['trained']} folds trained, {found['found']} found in "
            f"the store.{warning}"
        )
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
    st.caption(
        widgets.plain(
            f"Weighted F1 on the fold’s test clips; a dot: found in the store; …: being trained. {done} of "
            f"{n} folds are done; {training.how(job.request)}."
        )
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
        format_func=lambda name: name or "the one of now",
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
        st.caption(
            widgets.plain(
                f"{shown} is made from a float expert, without training of its own that could be drawn."
            )
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
    st.caption(
        widgets.plain(
            f"{shown}, {len(curves)} folds. Solid: on {held}, which choose the epoch (dot); dotted: "
            f"training; {training.how(job.request)}."
        )
    )


@st.cache_data(max_entries=32, ttl=600, show_spinner=False)
def official_folds(dataset: str) -> tuple[int, ...]:
    """Numbers of a dataset's own folds; none where it has none, or is gone."""
    try:
        manifest = datasets.open_dataset(dataset)
    except UserError:
        return ()
    return () if manifest.folds is None else tuple(sorted(set(manifest.folds.tolist())))


# A new training.


def a_new_one(listed: Sequence[Job], values: dict[str, Any]) -> None:
    """The form, what will run, and the button."""
    st.subheader("A new training", anchor=False)
    if sentences := public.training():
        st.caption(widgets.plain(sentences))
    left, right = st.columns([1, 1], gap="large")
    with left:
        found = the_data(listed, values)
        the_experts(values)
        the_protocol(found, values)
        more(values)
    with right:
        what_will_run(found, listed, values)


def the_data(listed: Sequence[Job], values: dict[str, Any]) -> Outline | None:
    """Dataset and embedder."""
    names = places(listed)
    options = list(dict.fromkeys([*names, *([values["data"]] if values["data"] else [])]))
    st.selectbox(
        "Dataset",
        options,
        key=linked.widget(PAGE, "data"),
        on_change=another_dataset,
        accept_new_options=public.LIMITS is None,
        placeholder="The path of a folder",
        help="One that the lab knows"
        + (
            ", or type the path of a folder on the machine that runs the lab: a folder a class with wav, "
            "flac, ogg or mp3 files in it, or ESC’s layout (meta/esc50.csv and audio/)."
            if public.LIMITS is None
            else "."
        ),
    )
    found = None
    if values["data"]:
        try:
            found = outlined(values["data"])
        except UserError as error:
            st.error(widgets.plain(training.problem(error)))
            if public.LIMITS is None:
                st.caption("Type the path of another folder above, or choose a dataset that is here.")
        else:
            outlined_in_words(found)
    else:
        st.info(
            "No dataset is on this machine yet"
            + (
                ": type the path of a folder that has a folder of recordings a class."
                if public.LIMITS is None
                else "; who runs the lab can put one there."
            )
        )
    if public.LIMITS is not None:
        return found
    st.selectbox(
        "Embedder",
        list(dict.fromkeys([*training.EMBEDDERS, values["embedder"]])),
        key=linked.widget(PAGE, "embedder"),
        accept_new_options=True,
        format_func=lambda name: f"{name} (no weights, offline)" if name == training.OFFLINE else name,
        help="What turns five seconds of sound into numbers: log-mel statistics, a small network of our own "
        "(ds-cnn), a learned one (mn04), the paper’s EfficientNet-B3, or any model of timm by name.",
    )
    if values["embedder"] in models.ARCHITECTURES:
        weights.offer(values["embedder"])
    elif values["embedder"] != training.OFFLINE:
        st.text_input(
            "Its weights",
            key=linked.widget(PAGE, "weights"),
            placeholder="from timm’s hub",
            help="Empty: downloaded from timm’s hub, once. Or the path of a safetensors file; or random.",
        )
    return found


@st.cache_data(max_entries=32, ttl=30, show_spinner="Looking at the recordings …")
def outlined(spec: str) -> Outline:
    """What there is in a dataset; see `training.outline`."""
    return training.outline(spec)


def outlined_in_words(found: Outline) -> None:
    """The dataset in a sentence, and what is wrong with some of its files."""
    folds = f"{len(found.folds)} folds of its own" if found.folds else "no folds of its own"
    some = map(words.readable, found.classes[:4])
    st.caption(
        widgets.plain(
            f"{found.clips:,} clips of {len(found.classes)} classes ({', '.join(some)}"
            f"{' …' if len(found.classes) > 4 else ''}), {found.recordings:,} recordings, {folds}."
        )
    )
    if found.broken:
        st.warning(
            widgets.plain(
                f"{found.broken} files cannot be used, and training would stop at them: "
                f"{'; '.join(found.unreadable)}."
            )
        )


def the_experts(values: dict[str, Any]) -> None:
    """What is trained, and what is mixed."""
    st.pills(
        "Experts",
        NAMES,
        selection_mode="multi",
        key=linked.widget(PAGE, "experts"),
        wrap=True,
        help="  \n".join(f"**{name}**: {widgets.plain(EXPERTS[name].summary)}" for name in NAMES),
    )
    st.pills(
        "Mixture",
        NAMES,
        selection_mode="multi",
        key=linked.widget(PAGE, "mix"),
        wrap=True,
        help="The experts that the router chooses among; those that are not trained yet are added. With "
        "none, a bundle mixes bitnet, q4 and q8, as far as they are there.",
    )


def the_protocol(found: Outline | None, values: dict[str, Any]) -> None:
    """How it is evaluated."""
    st.segmented_control(
        "Folds",
        list(PROTOCOLS),
        key=linked.widget(PAGE, "protocol"),
        required=True,
        wrap=True,
        format_func=PROTOCOLS.__getitem__,
        help="**The data’s own**: each official fold is the test set once.  \n**Random**: stratified over "
        "clips, as the paper’s code does.  \n**Grouped**: whole source recordings on one side.",
    )
    if values["protocol"] == "official" and found is not None and not found.folds:
        st.warning("This dataset has no folds of its own: choose random or grouped.")
    if values["protocol"] == "grouped" and found is not None and not found.folds:
        st.caption("This dataset has no folds of its own, so whole recordings are kept on one side.")
    if values["protocol"] == "random":
        st.caption(
            "Clips cut from one recording lie on both sides then, and scores come out too high; the result "
            "counts them."
        )
    if values["protocol"] != "official":
        st.number_input("Number of folds", 2, 100, key=linked.widget(PAGE, "folds"))
    st.segmented_control(
        "Epoch chosen by",
        list(SELECTIONS),
        key=linked.widget(PAGE, "selection"),
        required=True,
        wrap=True,
        format_func=SELECTIONS.__getitem__,
        help="**Inner validation**: on training clips held out; the test clips are seen once.  \n**Best on "
        "test**: on the test clips themselves, as the paper’s code does.",
    )
    if values["selection"] == "best-on-test":
        st.caption(
            "The test clips choose then, so their scores are too good: for comparing with the paper only."
        )


def more(values: dict[str, Any]) -> None:
    """Seeds, single settings, the bundle's name."""
    st.text_input(
        "Name of the bundle",
        key=linked.widget(PAGE, "name"),
        placeholder=training.suggested_name(values["data"] or "bundle", values["embedder"]),
        help="The result becomes a bundle of this name that all pages can be about.",
    )
    if public.LIMITS is not None:
        return
    with st.expander("Seeds and single settings"):
        st.number_input(
            "Seeds",
            1,
            MOST_SEEDS,
            key=linked.widget(PAGE, "seeds"),
            help="Everything is trained once a seed, counted from 42.",
        )
        st.text_input(
            "Settings",
            key=linked.widget(PAGE, "set"),
            placeholder="expert.epochs=20; router.alpha=10",
            help="As with qmoe train --set: section.key=value, with ; between them.",
        )
        if known := public.schedulers():
            st.selectbox(
                "Cluster",
                [THIS_MACHINE, *known],
                key=linked.keep(_SCHEDULER, THIS_MACHINE),
                help="The Dask schedulers that were named when the lab was started. Their workers must see "
                "the store and the recordings under the same paths.",
            )


def scheduler() -> str:
    """Where the work is to be done: an address that was named at the start, or "" for this machine."""
    chosen = st.session_state.get(_SCHEDULER, THIS_MACHINE)
    return chosen if chosen in public.schedulers() else ""


def what_will_run(found: Outline | None, listed: Sequence[Job], values: dict[str, Any]) -> None:
    """What is cached and what will run; the button."""
    st.markdown("**What will run**")
    name = values["name"] or training.suggested_name(values["data"] or "bundle", values["embedder"])
    if not training.is_a_name(name):
        st.error(
            widgets.plain(
                f"“{name}” is no name for a bundle; letters, digits, . _ and - are accepted, without spaces."
            )
        )
        return
    try:
        asked = training.request({**values, "name": name}, scheduler())
    except UserError as error:
        st.error(widgets.plain(training.problem(error)))
        return
    if found is None:
        st.caption("Choose a dataset first.")
        return
    if values["protocol"] == "official" and not found.folds:
        st.caption("Choose other folds first.")
        return
    light = asked.embedder in OWN
    planned = f"planned:{asked.embedder}:{asked.weights}"
    if light or st.session_state.get(planned):
        stamp = tuple((job.id, job.state) for job in listed)
        try:
            the_plan(plan(str(default_root()), msgspec.json.encode(asked), stamp))
        except UserError as error:
            st.error(widgets.plain(training.problem(error)))
            return
    else:
        st.caption(
            widgets.plain(
                f"To see what is there already, {asked.embedder} has to be loaded, with torch: some seconds."
            )
        )
        st.button("See what is there", on_click=lambda: st.session_state.update({planned: True}))
    replaced = name in bundles.names()
    if name == bundles.DEFAULT_NAME:
        st.warning(
            "That is the name of the bundle that ships: the new one would not be found. Choose another name."
        )
    elif replaced:
        st.caption(widgets.plain(f"The bundle {name} is there already, and will be replaced."))
    active = sum(job.active for job in listed)
    if active:
        running = f"{words.number(active)} job{'s' * (active != 1)}"
        st.caption(
            f"{words.capital(running)} {'is' if active == 1 else 'are'} before it: one runs at a time."
        )
    st.button(
        "Queue the training" if active else "Train",
        type="primary",
        on_click=submit,
        args=(asked,),
        disabled=name == bundles.DEFAULT_NAME,
    )


@st.cache_data(max_entries=32, ttl=20, show_spinner="Looking into the store …")
def plan(root: str, asked: bytes, stamp: tuple[tuple[str, str], ...]) -> Plan:
    """What a request finds in this store; asked again when a job has changed its state.

    Raises:
        UserError: the request cannot work.
    """
    return jobs.plan(msgspec.json.decode(asked, type=Train))


PLAN = (
    Column("name", "Expert", number=False),
    Column("cached", "there", meaning="Folds × seeds that are in the store already."),
    Column("missing", "will run", meaning="Folds × seeds that will be trained."),
)


def the_plan(found: Plan) -> None:
    """A plan in a sentence and a table."""
    missing, cores = found.total - found.cached, system.cores()
    embedding = (
        f"All {found.clips:,} embeddings are there."
        if found.embedded == found.clips
        else f"{found.clips - found.embedded:,} of {found.clips:,} clips will be embedded."
    )
    if not missing:
        training_ = f"All {found.total} folds are there, so only routers and the bundle are made: seconds."
    else:
        about = (
            ""
            if found.seconds is None
            else f", about {training.duration(found.seconds)} on {cores} cores here"
        )
        training_ = f"{missing} of {found.total} folds will be trained{about}."
    st.markdown(widgets.plain(f"{embedding} {training_}"))
    rows = [{"name": row.name, "cached": row.cached, "missing": row.total - row.cached} for row in found.rows]
    marks = [f"3px solid {colour(row.name)}" for row in found.rows]
    tables.table(PLAN, rows, name="plan", title="What is there and what will run", marks=marks)


train()

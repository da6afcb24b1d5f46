"""Train: the controls of a new training, what will run, and the button that starts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import streamlit as st

from dashboard.session import linked, public, training
from dashboard.session.linked import Control
from dashboard.session.training import Outline
from dashboard.views import tables, weights, widgets, words
from dashboard.views.tables import Column
from dashboard.views.train_job import PAGE, colour, submit
from qmoe_core import bundles, datasets, numbers
from qmoe_core.embedders import OWN, models
from qmoe_core.errors import UserError
from qmoe_core.experts.spec import EXPERTS, NAMES
from qmoe_core.runtime import jobs, system, typed
from qmoe_core.runtime.jobs import Job, Plan, Train
from qmoe_core.runtime.requests import DEFAULT_MIXTURE
from qmoe_core.runtime.store import default_root
from qmoe_core.training import perturbed

PROTOCOLS = {"official": "the data’s own", "random": "random", "grouped": "grouped by recording"}
SELECTIONS = {
    "inner-validation": "inner validation",
    "best-on-test": "best on test",
    "setting": "nobody: as many as set",
}
MOST_SEEDS = 10
_SCHEDULER = "train.scheduler"
THIS_MACHINE = "this machine"
"""Not part of a link: it is a machine that this one would trust."""


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
        linked.whole("perturb", 0, perturbed.MOST, 0),
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


def new_training(listed: Sequence[Job], values: dict[str, Any]) -> None:
    """The form, what will run, and the button."""
    st.subheader("A new training", anchor=False)
    if sentences := public.training():
        widgets.caption(sentences)
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
            widgets.error(training.problem(error))
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
    widgets.caption(
        f"{found.clips:,} clips of {len(found.classes)} classes ({', '.join(some)}"
        f"{' …' if len(found.classes) > 4 else ''}), {found.recordings:,} recordings, {folds}."
    )
    if found.broken:
        widgets.warning(
            f"{found.broken} files cannot be used, and training would stop at them: "
            f"{'; '.join(found.unreadable)}."
        )
    for note in found.notes:
        widgets.caption(note)


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
    widgets.one_of(
        PAGE,
        "protocol",
        "Folds",
        PROTOCOLS,
        "**The data’s own**: each official fold is the test set once.  \n**Random**: stratified over "
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
    widgets.one_of(
        PAGE,
        "selection",
        "Epoch chosen by",
        SELECTIONS,
        "**Inner validation**: on training clips held out; the test clips are seen once.  \n**Best on "
        "test**: on the test clips themselves, as the paper’s code does.  \n**Nobody**: every fit takes "
        "expert.epochs epochs.",
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
        st.number_input(
            "Changed copies of each clip",
            0,
            perturbed.MOST,
            key=linked.widget(PAGE, "perturb"),
            help="Trained on beside the clip: in noise, in rooms, from afar, in narrow bands, at another "
            "pitch or speed. Training takes as many times longer; what it changes in noise is on Compare.",
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
        widgets.error(
            f"“{name}” is no name for a bundle; letters, digits, . _ and - are accepted, without spaces."
        )
        return
    try:
        asked = training.request({**values, "name": name}, scheduler())
    except UserError as error:
        widgets.error(training.problem(error))
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
            widgets.error(training.problem(error))
            return
    else:
        widgets.caption(
            f"To see what is there already, {asked.embedder} has to be loaded, with torch: some seconds."
        )
        st.button("See what is there", on_click=lambda: st.session_state.update({planned: True}))
    replaced = name in bundles.names()
    if name == bundles.DEFAULT_NAME:
        st.warning(
            "That is the name of the bundle that ships: the new one would not be found. Choose another name."
        )
    elif replaced:
        widgets.caption(f"The bundle {name} is there already, and will be replaced.")
    active = sum(job.active for job in listed)
    if active:
        running = f"{numbers.number(active)} job{'s' * (active != 1)}"
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
    return jobs.plan(typed.decode(asked, Train))


PLAN = (
    Column("name", "Expert", number=False),
    Column("cached", "folds done", meaning="Folds × seeds that are in the store already."),
    Column("missing", "folds to train", meaning="Folds × seeds that will be trained."),
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
            else f", about {numbers.duration(found.seconds)} on {cores} cores here"
        )
        training_ = f"{missing} of {found.total} folds will be trained{about}."
    st.markdown(widgets.plain(f"{embedding} {training_}"))
    rows = [{"name": row.name, "cached": row.cached, "missing": row.total - row.cached} for row in found.rows]
    marks = [f"3px solid {colour(row.name)}" for row in found.rows]
    tables.table(PLAN, rows, name="plan", title="What is there and what will run", marks=marks)

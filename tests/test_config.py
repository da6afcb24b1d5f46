from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmoe_core import config
from qmoe_core.config import Config
from qmoe_core.errors import ConfigError


def test_the_defaults_are_the_papers():
    expert, router, evaluation = Config().expert, Config().router, Config().evaluation

    assert expert.hidden == (640, 320)
    assert expert.dropout == 0.195
    assert expert.learning_rate == 5.79e-4
    assert expert.weight_decay == 5.13e-3
    assert expert.batch_size == 64
    assert expert.patience == 19
    assert expert.class_weights
    assert router.hidden == (128, 64)
    assert router.dropout == 0.2
    assert router.learning_rate == 1e-3
    assert router.weight_decay == 1e-4
    assert router.batch_size == 256
    assert router.patience == 30
    assert router.load_balancing == 1e-3
    assert router.temperature == 1.0
    assert router.mc_samples == 10
    assert router.curiosity == "disagreement"
    assert router.mix == "probabilities"
    assert (evaluation.protocol, evaluation.selection) == ("official", "inner-validation")


def test_nothing_given_is_the_defaults():
    assert config.load() == Config()


def test_a_file_changes_what_it_names_and_a_setting_goes_before_it(tmp_path):
    path = tmp_path / "half.toml"
    path.write_text(
        'seed = 7\nmoe_training = "joint"\n[router]\ntemperature = 0.5\nhidden = [8]\n', encoding="utf-8"
    )

    loaded = config.load(path, ["router.temperature = 2", "expert.hidden=[32, 16]", "router.curiosity=none"])

    assert (loaded.seed, loaded.moe_training) == (7, "joint")
    assert (loaded.router.temperature, loaded.router.hidden) == (2.0, (8,))
    assert loaded.router.curiosity == "none"
    assert loaded.expert == config.load(settings=["expert.hidden=[32,16]"]).expert
    assert loaded.evaluation == Config().evaluation


@pytest.mark.parametrize("written", ['"none"', "'none'", "none", " none "])
def test_a_word_needs_no_quotes(written):
    assert config.load(settings=[f"router.curiosity={written}"]).router.curiosity == "none"


@pytest.mark.parametrize(
    ("setting", "key", "accepted"),
    [
        ("router.temprature=1", "temprature", "temperature"),
        ("sed=1", "sed", "seed"),
        ("router.temperature=0", "router.temperature", "> 0"),
        ("router.temperature=nan", "router.temperature", "> 0"),
        ("router.temperature=inf", "router.temperature", "<= "),
        ("expert.clip_norm=-inf", "expert.clip_norm", "> 0"),
        ("router.temperature=warm", "router.temperature", "float"),
        ("router.temperature=[1.0]", "router.temperature", "float"),
        ("router.alpha=1001", "router.alpha", "<= 1000"),
        ("router.alpha=-0.1", "router.alpha", ">= 0"),
        ("router.mc_samples=0", "router.mc_samples", ">= 1"),
        ("router.top_k=1.5", "router.top_k", "int"),
        ("router.curiosity=entropy", "router.curiosity", "disagreement, router-mc, none"),
        ("router.mix=sum", "router.mix", "probabilities, logits"),
        ("router.normalise=1", "router.normalise", "bool"),
        ("expert.hidden=[]", "expert.hidden", ">= 1"),
        ("expert.hidden=[1,2,3,4,5]", "expert.hidden", "<= 4"),
        ("expert.hidden=[64, 0]", "expert.hidden[1]", ">= 1"),
        ("expert.hidden=[100000]", "expert.hidden[0]", "<= 65536"),
        ("expert.hidden=640", "expert.hidden", "array"),
        ("expert.dropout=1.0", "expert.dropout", "< 1"),
        ("expert.learning_rate=nan", "expert.learning_rate", "> 0"),
        ("expert.epochs=1e3", "expert.epochs", "int"),
        ("seed=-1", "seed", ">= 0"),
        ("seed=4294967296", "seed", "<= 4294967295"),
        ("seed=2020-01-01", "seed", "int"),
        ("seed=", "seed", "int"),
        ("seed=1\nrouter.alpha=5", "seed", "int"),
        ("moe_training=both", "moe_training", "compose, joint"),
        ("evaluation.protocol=oficial", "evaluation.protocol", "official, random, grouped"),
        ("evaluation.selection=test", "evaluation.selection", "inner-validation, best-on-test"),
        ("evaluation.folds=1", "evaluation.folds", ">= 2"),
        ("evaluation=3", "evaluation", "object"),
        ("seed.x=1", "seed", "int"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_is_accepted(setting, key, accepted):
    with pytest.raises(ConfigError) as raised:
        config.load(settings=[setting])

    message = str(raised.value)
    assert f"`{key}`" in message
    assert accepted in message
    assert "\n" not in message
    assert "$" not in message


@pytest.mark.parametrize("setting", ["router.alpha", "=1", "", "router..alpha=1", ".alpha=1"])
def test_a_setting_without_a_key_is_shown_how_it_should_look(setting):
    with pytest.raises(ConfigError, match=r"expected section\.key=value"):
        config.load(settings=[setting])


def test_a_value_cannot_become_a_section():
    with pytest.raises(ConfigError, match="`seed` is a value, not a section"):
        config.load(settings=["seed=1", "seed.x=2"])


def test_a_wrong_value_in_a_file_names_file_and_key(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("[router]\ntop_k = 0\n", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"wrong\.toml: expected `int` >= 1 - at `router.top_k`"):
        config.load(path)


@pytest.mark.parametrize(
    ("content", "says"), [(b"seed = = 1", "not valid TOML"), (b"\xff\xfe", "cannot be read")]
)
def test_a_file_that_is_no_toml_is_named(tmp_path, content, says):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=rf"broken\.toml.*{says}"):
        config.load(path)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(ConfigError, match=path.name):
            config.load(path)


def test_it_survives_the_passage_through_json():
    changed = config.load(settings=["router.temperature=0.1", "expert.hidden=[3]", "seed=1"])

    again = msgspec.convert(msgspec.json.decode(msgspec.json.encode(config.to_dict(changed))), Config)

    assert again == changed
    assert config.fingerprint(config.to_dict(again)) == config.fingerprint(config.to_dict(changed))


def test_it_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        Config().seed = 1  # type: ignore[misc]


def test_every_setting_moves_the_fingerprint():
    start = config.fingerprint(config.to_dict(Config()))
    settings = ["seed=1", "expert.dropout=0.2", "router.alpha=0.2", "evaluation.folds=6", "router.mix=logits"]

    made = {config.fingerprint(config.to_dict(config.load(settings=[s]))) for s in settings}

    assert len(made | {start}) == len(settings) + 1


def test_the_fingerprint_is_the_sha256_of_sorted_json_without_spaces():
    # Runs on disk are found by it: another value here means that everybody trains everything again.
    canonical = '{"a":"ü","b":[1,2.5]}'

    made = config.fingerprint({"b": [1, 2.5], "a": "ü"})

    assert made == hashlib.sha256(canonical.encode()).hexdigest()


scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=3), trees, max_size=4))
def test_the_order_of_keys_does_not_matter(tree):
    backwards = dict(reversed(list(tree.items())))

    assert config.fingerprint(tree) == config.fingerprint(backwards)


NESTED = "[" * 5000
DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"x = {NESTED}", "nested more than 20 deep"),
        (f"x = {'[' * 30}{']' * 30}", "nested more than 20 deep"),
        (".".join("a" * 5000) + " = 1", "nested more than 20 deep"),
        (f"[expert]\nepochs = {DIGITS}", "not valid TOML"),
        ("x = 1\n" * 20_000, "larger than 65,536 bytes"),
        ("\x00", "not valid TOML"),
    ],
    ids=["open", "closed", "dotted", "digits", "large", "binary"],
)
def test_a_hostile_file_is_answered_with_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as refused:
        config.load(path)
    assert len(str(refused.value)) < 300


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_what_is_no_file_is_no_configuration(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read as a configuration"):
        config.load(path)


@pytest.mark.parametrize(
    "setting",
    [
        f"expert.epochs={NESTED}",
        f"expert.epochs={DIGITS}",
        f"{'a.' * 5000}a=1",
        "expert.epochs=nan",
        "expert.hidden=" + str([1] * 5000),
    ],
    ids=["nested", "digits", "dotted", "nan", "long"],
)
def test_a_hostile_setting_is_answered_with_a_sentence(setting: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.load(settings=[setting])
    assert len(str(refused.value)) < 300

from __future__ import annotations

import pytest

from qmoe_core.engine import LEVELS
from qmoe_core.errors import ConfigError
from qmoe_core.experts import EXPERTS, NAMES, parse_names


def test_there_are_ten_experts_in_the_order_of_the_design():
    assert NAMES == ("fp32", "q1", "q2", "q3", "q4", "q8", "q16", "bitnet", "ptq8", "popcount")


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_says_what_it_is(name):
    spec = EXPERTS[name]

    assert spec.name == name
    assert spec.title
    assert spec.summary.endswith(".")
    assert spec.bits == (32 if spec.format == "float" else LEVELS[spec.format].bits)


def test_only_the_post_training_formats_are_made_from_another():
    sources = {name: spec.derived_from for name, spec in EXPERTS.items() if spec.derived_from}

    assert sources == {"ptq8": "fp32", "popcount": "fp32"}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("q4", ("q4",)),
        ("bitnet, q4 ,Q8", ("bitnet", "q4", "q8")),
        (["q8", "fp32"], ("q8", "fp32")),
        ("all", NAMES),
        ("q4,", ("q4",)),
    ],
)
def test_names_are_read_in_the_order_given(given, names):
    assert parse_names(given) == names


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "--moe: no expert named; choose from fp32, q1"),
        (" , ", "--moe: no expert named"),
        ([], "--moe: no expert named"),
        ("q4,q5", "--moe: there is no expert 'q5'; choose from fp32"),
        ("bitnit", "did you mean bitnet?"),
        ("q4,q8,q4", "--moe: an expert is named twice in q4,q8,q4"),
        ("all,q4", "--moe: there is no expert 'all'"),
    ],
)
def test_what_cannot_be_read_is_explained(given, says):
    with pytest.raises(ConfigError) as raised:
        parse_names(given, setting="--moe")

    assert says in str(raised.value)

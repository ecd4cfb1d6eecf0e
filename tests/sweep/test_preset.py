"""Presets: what an algorithm would ignore is refused, and another algorithm is given what it reads."""

import re

import pytest

from rayseg.errors import UsageError
from rayseg.schema import parse, to_dict
from rayseg.sweep.preset import ALGORITHMS, READ, Preset, Sweep, unread
from rayseg.sweep.space import choice

SPACE = {"optim.lr": choice(0.01, 0.1)}
NEEDED = {"ladder": {"rungs": ({"train.steps": 2}, {})}}
ALL = {
    "trials": 3,
    "grace_steps": 5,
    "reduction_factor": 2,
    "recheck": 1,
    "objectives": ("miou", "-parameters"),
    "population": 6,
    "perturb_steps": 4,
    "rungs": ({"train.steps": 2}, {}),
    "fresh": True,
    "seeds": 3,
    "top": 4,
}
BESIDE = {"top": {"seeds": 2}}


def preset(algorithm, **more):
    given = {"about": "a test", "recipe": "gald/scenes", "settings": {}, "space": SPACE}
    return Preset(**given | NEEDED.get(algorithm, {}) | {"algorithm": algorithm} | more)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_number_is_read_or_refused(algorithm):
    for field, value in ALL.items():
        if field in READ[algorithm]:
            assert getattr(preset(algorithm, **{field: value} | BESIDE.get(field, {})), field) == value
        else:
            says = re.escape(f"{field} = {value} would be ignored with algorithm = {algorithm}")
            with pytest.raises(UsageError, match=says):
                preset(algorithm, **{field: value})


def test_every_number_is_of_some_algorithm():
    always = {"about", "recipe", "settings", "space", "rows", "algorithm"}
    assert set(ALL) == set(Preset.model_fields) - always == set().union(*READ.values())


@pytest.mark.parametrize(
    ("algorithm", "more", "says"),
    [
        ("tpe", {"rows": ({"head.ld": "v1"},)}, "tpe chooses points of its own, rows are fixed"),
        ("pbt", {"rows": ({"head.ld": "v1"},)}, "pbt chooses points of its own, rows are fixed"),
        ("grid", {"rows": ({"optim.lr": 0.1},)}, "'optim.lr' is in rows and in space"),
        ("grid", {"objectives": ("-parameters",)}, "begin with miou"),
        ("grid", {"objectives": ("miou", "miou")}, "begin with miou"),
        ("ladder", {"rungs": ({},)}, "a ladder needs two rungs or more"),
    ],
)
def test_what_does_not_go_together_is_refused(algorithm, more, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        preset(algorithm, **more)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_preset_is_read_back_from_plain_types(algorithm):
    made = preset(algorithm)
    assert parse(Preset, to_dict(made), "preset") == made


def test_another_algorithm_keeps_what_it_reads():
    asha = preset("asha", trials=5, grace_steps=7, reduction_factor=2, recheck=1)
    assert asha.under(None) is asha
    assert asha.under("asha") is asha
    assert asha.under("hyperband") == preset("hyperband", trials=5, grace_steps=7, reduction_factor=2, recheck=1)
    assert asha.under("random") == preset("random", trials=5)
    assert asha.under("grid") == preset("grid")
    with pytest.raises(UsageError, match="a ladder needs two rungs"):
        asha.under("ladder")
    with pytest.raises(UsageError, match="rows are fixed"):
        preset("grid", space={}, rows=({"head.ld": "v1"},)).under("bohb")


def test_what_is_unread_is_all_the_rest():
    assert unread("grid") == {"trials", *ALL} - {"objectives", "top", "seeds"}
    assert "trials" not in unread("random")


def test_an_unknown_preset_is_refused_with_the_nearest():
    sweep = Sweep(name="x", about="a test", presets={"demo": preset("grid")}, picture=("a", "b"))
    with pytest.raises(UsageError, match="did you mean 'demo'"):
        sweep.preset("demos")

"""What trials start from: settings and searches over a preset, every value checked before anything starts."""

import re

import pytest

from rayseg import config as configs
from rayseg import recipe
from rayseg.errors import UsageError
from rayseg.sweep.space import Choice, Integer, Uniform, choice
from rayseg.sweep.trial import Preset, base_of, built, describe, probes, short, trials


def preset(space=None, **more):
    given = {"recipe": "gald/scenes", "settings": {}, "algorithm": "random"} | more
    return Preset(about="a test", space=space or {}, **given)


def based(space=None, *, settings=None, search=None, **more):
    return base_of(preset(space, **more), shards="anywhere", settings=settings or {}, search=search)


def names(base):
    return list(base.space)


# --- every value is checked -----------------------------------------------------------------------------------------

WRONG = {
    "an even kernel": ({"head.kernel_size": choice(3, 4)}, "'head.kernel_size' cannot be 4: "),
    "a wrong word": ({"head.norm": choice("batch", "layer")}, "'head.norm' cannot be layer: "),
    "a wrong type": ({"head.channels": choice(64, "wide")}, "'head.channels' cannot be wide: "),
    "the lower bound": ({"optim.momentum": Uniform(low=-0.1, high=0.9)}, "'optim.momentum' cannot be -0.1: "),
    "the upper bound": ({"optim.momentum": Uniform(low=0.5, high=1.0)}, "'optim.momentum' cannot be 1: "),
    "a fraction for a whole number": ({"train.batch": Uniform(low=4.0, high=8.0)}, "'train.batch' cannot be 4: "),
    "a multiple": ({"head.channels": Integer(low=16, high=40)}, "'head.channels' cannot be 40: "),
    "a list too short": ({"augment.crop_px": choice([64, 64], [64])}, "'augment.crop_px' cannot be [64]: "),
    "no such field": ({"optim.momentun": choice(0.8, 0.9)}, "'optim.momentun' cannot be 0.8: "),
    "ignored": ({"loss.focal_gamma": choice(1.0, 2.0)}, "'loss.focal_gamma' cannot be 1: "),
    "ignored under its condition": (
        {"head.ld": choice("v1", "v2"), "head.kernel_size": choice(3, 5, when={"head.ld": "v1"})},
        "'head.kernel_size' cannot be 3: ",
    ),
    "a condition that is never met": (
        {"head.ld": choice("v1", "v2"), "head.kernel_size": choice(3, 5, when={"head.ld": "v3"})},
        "'head.kernel_size' is never searched",
    ),
}


@pytest.mark.parametrize(("space", "says"), WRONG.values(), ids=WRONG)
def test_a_value_that_does_not_hold_is_named(space, says):
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        based(space)
    assert len(str(caught.value).splitlines()) == 1


def test_a_value_is_looked_at_only_under_its_condition():
    space = {"head.ld": choice("v1", "v2"), "head.kernel_size": choice(3, 5, when={"head.ld": "v2"})}
    assert names(based(space)) == ["head.ld", "head.kernel_size"]
    focal = {
        "loss.kind": choice("cross_entropy", "focal"),
        "loss.focal_gamma": choice(1.0, when={"loss.kind": "focal"}),
    }
    assert names(based(focal)) == list(focal)


def test_a_combination_that_does_not_hold_is_found_before_it_is_chosen():
    """Each value is valid by itself: a batch of 6 on two workers, a batch of 8 on four."""
    space = {"train.batch": choice(6, 8), "train.workers": choice(1, 2, 4)}
    with pytest.raises(UsageError, match=r"at .*batch=6 workers=4"):
        based(space)


# --- settings, searches, rows ---------------------------------------------------------------------------------------

WINDOW = {"head.ld": choice("v1", "v2"), "head.kernel_size": choice(3, 5, when={"head.ld": "v2"})}


def test_what_is_set_is_not_searched_and_decides_conditions():
    assert names(based(WINDOW, settings={"head.ld": "v2"})) == ["head.kernel_size"]
    assert names(based(WINDOW, settings={"head.ld": "v1"})) == []
    assert names(based(WINDOW, settings={"head.kernel_size": 7, "head.ld": "v2"})) == []


def test_a_search_stands_beside_the_presets_or_in_place_of_one_and_keeps_its_condition():
    search = {"head.kernel_size": choice(5, 7), "optim.lr": Uniform(low=0.01, high=0.1)}
    base = based(WINDOW, search=search)
    assert base.space["head.kernel_size"] == choice(5, 7, when={"head.ld": "v2"})
    assert names(base) == ["head.ld", "head.kernel_size", "optim.lr"]
    made = trials(preset(WINDOW), algorithm="random", count=12, shards="anywhere", settings={}, search=search)
    assert {t.config.head.kernel_size for t in made} == {None, 5, 7}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"search": {"seed": choice(0, 1)}, "settings": {"seed": 1}}, "'seed' is searched and set"),
        (
            {"search": {"head.ld": choice("v1", "v2")}, "rows": ({"head.ld": "v1"},)},
            "'head.ld' differs from row to row",
        ),
        ({"settings": {"head.ld": "v2"}, "rows": ({"head.ld": "v1"},)}, "'head.ld' differs from row to row"),
    ],
)
def test_a_name_is_given_once(given, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        based(**given)


def test_a_heads_option_is_searched_under_the_heads_that_have_it():
    heads = {"head.name": choice("fcn", "gald", "denoised_nl"), "head.norm": choice("batch", "group")}
    base = based(heads, settings={}, search={"head.kernel_size": choice(3, 5), "head.dropout": choice(0.0, 0.2)})
    assert base.space["head.kernel_size"].when == {"head.name": ("gald", "denoised_nl")}
    assert base.space["head.dropout"].when == {"head.name": ("fcn", "denoised_nl")}
    assert base.space["head.norm"].when == {}
    with pytest.raises(UsageError, match="none of the searched heads has 'recurrence'"):
        based(heads, search={"head.recurrence": choice(1, 2)})


def test_rows_are_the_trials_and_none_leaves_a_value_to_the_head():
    rows = ({"head.ld": "none"}, {"head.ld": "v2", "head.kernel_size": 3}, {"head.ld": "v1"})
    made = trials(preset(rows=rows, algorithm="grid"), algorithm="grid", count=8, shards="anywhere", settings={})
    assert [(t.config.head.ld, t.config.head.kernel_size) for t in made] == [("none", None), ("v2", 3), ("v1", None)]
    set_there = configs.merged(recipe.load("gald/cityscapes").run, {"data.shards": "x", "head.kernel_size": None})
    assert configs.from_dict(set_there).head.kernel_size == 5


# --- twins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        ({"head.norm": choice("batch", "sync_batch")}, {}),
        ({"train.sync_norm": choice("off", "on")}, {}),
        ({"head.norm": choice("batch", "sync_batch")}, {"train.workers": 2, "train.sync_norm": "on"}),
    ],
)
def test_norms_that_one_worker_cannot_tell_apart_are_refused(space, settings):
    with pytest.raises(UsageError, match=r"are the same run .*: set train\.workers=2"):
        trials(preset(space, algorithm="grid"), algorithm="grid", count=8, shards="anywhere", settings=settings)


def test_norms_that_two_workers_tell_apart_are_three_models():
    space = {"head.norm": choice("batch", "sync_batch", "group")}
    settings = {"train.workers": 2, "train.sync_norm": "off"}
    made = trials(preset(space, algorithm="grid"), algorithm="grid", count=8, shards="anywhere", settings=settings)
    assert len({b.fingerprint for b in built(made, 11)}) == 3


def test_probes_hold_every_value_and_bound_and_equal_runs_once():
    space = {
        "head.norm": choice("batch", "group"),  # the base's own, and another
        "optim.lr": Uniform(low=0.01, high=0.1),
        "head.ld": choice("v1", "v2"),
        "head.dilation": Integer(low=1, high=4, when={"head.ld": "v2"}),
    }
    base = based(space)
    made = probes(base)
    assert len({t.key for t in made}) == len(made) == len(built(made, 11)) == 7  # batch and v2 are the base
    assert {t.config.optim.lr for t in made} >= {0.01, 0.1}
    assert {t.config.head.dilation for t in made} >= {1, 4, None}


# --- words ----------------------------------------------------------------------------------------------------------


def test_points_are_described_shortly_and_without_ambiguity():
    assert describe({"head.name": "psp", "backbone.name": "resnet18", "optim.lr": 0.1234567}) == (
        "head.name=psp backbone.name=resnet18 lr=0.1235"
    )
    assert short((0.5, 1.0)) == "[0.5,1]"
    assert [short(v) for v in (True, None, 3, "dbs")] == ["true", "none", "3", "dbs"]
    assert describe({}) == "(the base)"


def test_a_preset_comes_from_json_as_it_was():
    made = preset({"x": choice([1, 2], [3]), "y": Uniform(low=0.0, high=1.0, when={"x": [[1, 2]]})})
    again = Preset.model_validate_json(made.model_dump_json())
    assert again == made
    assert isinstance(again.space["x"], Choice)

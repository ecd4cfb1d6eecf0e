"""RunConfig: dotted names, refusals, identity; what a run evaluates itself with."""

import pytest

from rayseg import config as configs
from rayseg import recipe
from rayseg.errors import UsageError
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, Trial, built, trials


def base(**settings):
    return configs.merged(recipe.load("gald/scenes").run, {"data.shards": "/nowhere", **settings})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optim.lr=1e-3", 1e-3),
        ("loss.ohem=true", True),
        ("augment.crop_px=[64, 96]", [64, 96]),
        ("a.b=resnet18", "resnet18"),
    ],
)
def test_settings_are_typed(text, value):
    assert configs.parse_setting(text) == (text.split("=")[0], value)


@pytest.mark.parametrize("text", ["lr", "lr=", "=3", "a..b=1", "a b=1"])
def test_unreadable_setting_is_refused(text):
    with pytest.raises(UsageError, match=r"a\.b=c"):
        configs.parse_settings([text])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"optim.learning_rat": 0.1}, "unknown key"),
        ({"optim.lr": -0.1}, "optim.lr"),
        ({"train.steps": 0}, "train.steps"),
        ({"train.batch": 7, "train.workers": 2}, "not a multiple of train.workers"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"head.name": "galdd"}, "did you mean 'gald'"),
        ({"head.kernel_size": 4}, "kernel_size"),
        ({"head.dilation": 0}, "dilation"),
        ({"loss.ohem": True, "loss.ohem_min_kept": 8 * 128 * 128}, "keeps them all"),
        ({"augment.crop_px": [0, 64]}, "crop_px"),
        ({"backbone.output_stride": 7}, "output_stride"),
        ({"test.window_px": [0, 8]}, "test.window_px"),
        ({"test.stride": 0.5}, "without window_px"),
        ({"start_from": ""}, "--set start_from=RUN"),
        ({"start_from": "/run", "backbone.pretrained": True}, "would be overwritten"),
    ],
)
def test_wrong_values_are_refused_in_one_line(settings, says):
    with pytest.raises(UsageError) as caught:
        configs.from_dict(base(**settings))
    assert says in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_another_head_drops_the_old_ones_options():
    mapping = base(**{"head.name": "fcn"})
    assert mapping["head"] == {"name": "fcn"}


def test_another_head_drops_what_only_the_old_one_has():
    base = {"head": {"name": "dfn"}, "loss": {"aux_weight": 0.1, "weights": {"smooth_2": 0.5}, "border_weight": 0.1}}
    assert configs.merged(base, {"head.name": "fcn"}) == {"head": {"name": "fcn"}, "loss": {"aux_weight": 0.1}}
    assert configs.merged(base, {"head.name": "dfn"}) == base


def test_merged_leaves_its_base_alone():
    nested = {"a": {"b": 1}}
    assert configs.merged(nested, {"a.b": 2, "c.d": 3}) == {"a": {"b": 2}, "c": {"d": 3}}
    assert nested == {"a": {"b": 1}}


def test_identity_ignores_only_what_does_not_train():
    one = configs.from_dict(base())
    moved = configs.from_dict(base(**{"data.shards": "/elsewhere", "train.workers": 2, "data.loader_threads": 7}))
    other = configs.from_dict(base(**{"optim.lr": 0.04}))
    assert configs.digest(one) == configs.digest(moved)
    assert configs.digest(one) != configs.digest(other)


def same(one, two):
    return configs.digest(configs.from_dict(base(**one))) == configs.digest(configs.from_dict(base(**two)))


def test_identity_drops_what_the_loss_does_not_read():
    assert same({"loss.ohem_min_kept": 1000}, {"loss.ohem_min_kept": 2000, "loss.ohem_threshold": 0.6})
    for option in ({"loss.ohem_min_kept": 1000}, {"loss.ohem_threshold": 0.6}):
        assert not same({"loss.ohem": True}, {"loss.ohem": True, **option})
    assert not same({"loss.ohem": True}, {})
    for head, reads in {"dfn": False, "dfdam": False, "danet": False, "gald": True, "fcn": True}.items():
        assert same({"head.name": head, "loss.aux_weight": 0.2}, {"head.name": head, "loss.aux_weight": 0.4}) != reads


@pytest.mark.parametrize(
    ("fixed", "searched"),
    [({"head.name": "danet"}, "loss.aux_weight"), ({"loss.ohem": False}, "loss.ohem_threshold")],
)
def test_trials_that_differ_in_what_is_not_read_are_twins(fixed, searched):
    preset = Preset(
        about="", recipe="gald/scenes", settings=fixed, space={searched: choice(0.2, 0.4)}, algorithm="grid"
    )
    with pytest.raises(UsageError, match="trials 1 and 2 are the same run"):
        trials(preset, algorithm="grid", count=2, shards="/nowhere", settings={})
    points = [{searched: value} for value in (0.2, 0.4)]
    made = [Trial(n, str(n), p, configs.from_dict(base(**fixed, **p))) for n, p in enumerate(points, 1)]
    with pytest.raises(UsageError, match="trials 1 and 2 build the same model and train it alike"):
        built(made, 4)


def test_no_weight_on_the_auxiliary_loss_builds_no_auxiliary_head():
    assert configs.from_dict(base()).model(11).auxiliary
    assert not configs.from_dict(base(**{"loss.aux_weight": 0.0})).model(11).auxiliary


def test_a_run_judges_itself_by_one_view_and_keeps_its_window():
    config = configs.from_dict(base(**{"test.scales": [0.5, 1.0], "test.flip": True, "test.window_px": [64, 96]}))
    test = config.while_training().test
    assert (test.scales, test.flip, test.window_px) == ((1.0,), False, (64, 96))
    assert config.while_training().model_copy(update={"test": config.test}) == config

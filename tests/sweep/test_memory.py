"""What earlier runs count as: known points, or what a search may learn from, or nothing."""

import json

import pytest

from rayseg import config as configs
from rayseg.schema import to_dict
from rayseg.sweep import memory
from rayseg.sweep.searches import make
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, base_of, trials
from rayseg.tracking.history import Earlier

WINDOWS = {"head.kernel_size": choice(3, 5), "head.dilation": choice(1, 2), "loss.ohem": choice(False, True)}
DATA = "0123456789abcdef"


def sweep_of(space=WINDOWS, algorithm="grid", **settings):
    named = {name.replace("__", "."): value for name, value in settings.items()}
    preset = Preset(about="a test", recipe="gald/scenes", settings=named, space=space, algorithm=algorithm)
    base = base_of(preset, shards="here", settings={})
    listed = trials(preset, algorithm="grid", count=1, shards="here", settings={}) if algorithm == "grid" else []
    return preset, base, listed


def run_of(trial, base, *, data=DATA, curve=None, name="an earlier run", **tags):
    curve = curve or {40: 0.3, 80: 0.25}
    own = memory.tags(trial, base, data) | {"stopped": "finished: 80 steps", "rayseg.run_key": name} | tags
    return Earlier(f"id of {name}", name, "gald-scenes", own, {"val/miou": curve, "val/latency_ms": {40: 12.5}}, {})


def test_the_same_samples_and_config_are_a_known_point():
    _, base, listed = sweep_of()
    there = [run_of(listed[2], base, name="one"), run_of(listed[5], base, curve={80: 0.5}, name="two")]
    one, two = memory.remember(there, listed, base, DATA)
    assert (one.known.trial, one.run, one.known.curve) == (listed[2], "one", {40: 0.3, 80: 0.25})
    assert one.known.figures == {"step": 40.0, "miou": 0.3, "latency_ms": 12.5}  # of its best evaluation
    assert (two.known.trial, two.known.figures["miou"]) == (listed[5], 0.5)


def test_another_folder_and_another_number_of_workers_are_no_other_run():
    _, base, listed = sweep_of()
    moved = configs.merged(to_dict(listed[0].config), {"data.shards": "elsewhere", "train.workers": 2})
    there = listed[0]._replace(config=configs.from_dict(moved))
    assert [r.known.trial for r in memory.remember([run_of(there, base)], listed, base, DATA)] == [listed[0]]


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("other samples", {"data": "f" * 16}),
        ("stopped early", {"stopped": "stopped"}),
        ("not to its last step", {"curve": {40: 0.3}}),
        ("another config", {"rayseg.config": "0" * 16}),
    ],
)
def test_what_does_not_count(what, changed):
    _, base, listed = sweep_of()
    assert memory.remember([run_of(listed[0], base, **changed)], listed, base, DATA) == [], what
    assert len(memory.remember([run_of(listed[0], base)], listed, base, DATA)) == 1


def test_of_several_runs_of_a_point_the_newest_stands():
    _, base, listed = sweep_of()
    old, new = run_of(listed[0], base, name="old"), run_of(listed[0], base, curve={80: 0.4}, name="new")
    (only,) = memory.remember([old, new], listed, base, DATA)
    assert (only.run, only.known.figures["miou"]) == ("new", 0.4)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"head__kernel_size": 7}, True),  # searched: what the base has there does not matter
        ({"optim__lr": 0.07}, False),
        ({"train__steps": 40}, False),
        ({"head__channels": 32}, False),
        ({"head__name": "fcn"}, False),
    ],
    ids=str,
)
def test_a_family_has_the_samples_the_names_and_the_rest_of_the_config_in_common(other, same):
    _, base, _ = sweep_of()
    space = {n: d for n, d in WINDOWS.items() if not (other.get("head__name") and n.startswith("head."))}
    _, changed, _ = sweep_of(space, **other)
    assert (memory.family(base, DATA) == memory.family(changed, DATA)) is same


def test_other_values_are_the_same_family_other_names_and_other_samples_are_not():
    _, base, _ = sweep_of()
    more = {**WINDOWS, "head.kernel_size": choice(3, 7, 9)}
    assert memory.family(base, DATA) == memory.family(sweep_of(more)[1], DATA)
    fewer = {name: d for name, d in WINDOWS.items() if name != "loss.ohem"}
    assert memory.family(base, DATA) != memory.family(sweep_of(fewer)[1], DATA)
    assert memory.family(base, DATA) != memory.family(base, "f" * 16)


def test_a_search_that_chooses_learns_from_the_family_and_suggests_no_known_point():
    """All but one of 8 points are known: TPE has one left, and says it is done after it."""
    _, _, listed = sweep_of()
    preset, base, _ = sweep_of(algorithm="tpe")
    there = [run_of(t, base, curve={80: 0.1 * i}) for i, t in enumerate(listed[1:])]
    stranger = run_of(listed[0], base, **{"rayseg.family": "0" * 16})
    another = run_of(listed[0], base, **{"rayseg.config": "0" * 16})  # this version makes another run of its point
    remembered = memory.remember([*there, stranger, another], [], base, DATA)
    assert {r.known.trial.key for r in remembered} == {t.key for t in listed[1:]}
    known = [r.known for r in remembered]
    search = make(preset, algorithm="tpe", trials=[], base=base, count=20, num_classes=11, known=known)
    suggestion = search.suggest()
    assert suggestion.trial.key == listed[0].key
    search.report(suggestion.trial.key, {"step": 80, "miou": 0.2, "loss": 1.0})
    search.ended(suggestion.trial.key, "finished")
    assert search.suggest() == "done"


def test_a_grid_runs_what_is_not_known():
    preset, base, listed = sweep_of()
    remembered = memory.remember([run_of(t, base) for t in listed[:5]], listed, base, DATA)
    known = [r.known for r in remembered]
    search = make(preset, algorithm="grid", trials=listed, base=base, count=1, num_classes=11, known=known)
    assert [search.suggest().trial.key for _ in range(3)] == [t.key for t in listed[5:]]
    assert search.suggest() == "done"


def test_the_journal_brings_back_what_was_known():
    _, base, listed = sweep_of()
    remembered = memory.remember([run_of(t, base) for t in listed[:3]], listed, base, DATA)
    assert memory.again(json.loads(json.dumps(memory.plain(remembered))), base) == remembered


def test_the_summary_of_a_known_point():
    _, base, listed = sweep_of()
    (one,) = memory.remember([run_of(listed[0], base)], listed, base, DATA)
    found = memory.summary(one.known, 11)
    assert (found.status, found.best_miou, found.best_step, found.miou, found.step) == ("known", 0.3, 40, 0.25, 80)
    assert found.parameters > 10**6

"""TPE and BOHB: the points are Optuna's, conditions hold, what was tried is not run again, failures do not steer."""

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from rayseg.errors import UsageError
from rayseg.sweep import selftest, trial
from rayseg.sweep.bohb import Bohb
from rayseg.sweep.search import Suggestion
from rayseg.sweep.searches import Known
from rayseg.sweep.selftest import play
from rayseg.sweep.sequential import Seen
from rayseg.sweep.space import Choice, Integer, Uniform, choice
from rayseg.sweep.tpe import Tpe

LR = Uniform(low=0.001, high=0.1, log=True)
HEADS = {
    "head.name": choice("fcn", "gald"),
    "head.kernel_size": Choice(values=(3, 5, 7), when={"head.name": "gald"}),
}


def finished(point, *values):
    return Seen(point, "finished", {10: values[0]}, tuple(values))


def test_the_point_is_what_optuna_itself_suggests():
    """The study is written here as Optuna's manual has it: ask, suggest, tell."""
    space = {"optim.lr": LR, "optim.momentum": choice(0.5, 0.9, 0.99)}
    seeds = (3, 5, 0)
    rng = np.random.default_rng(0)
    history = [
        (
            {"optim.lr": float(f"{np.exp(rng.uniform(-6, -3)):.4g}"), "optim.momentum": (0.5, 0.9, 0.99)[i % 3]},
            rng.random(),
        )
        for i in range(15)
    ]
    ours = Tpe(space, startup=4).propose([finished(point, value) for point, value in history], seeds)

    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=4))
    for point, value in history:
        params = {"lr": point["optim.lr"], "momentum": (0.5, 0.9, 0.99).index(point["optim.momentum"])}
        kinds = {"lr": FloatDistribution(0.001, 0.1, log=True), "momentum": CategoricalDistribution(range(3))}
        study.add_trial(optuna.create_trial(params=params, distributions=kinds, value=value))
    asked = study.ask()
    theirs = asked.suggest_float("lr", 0.001, 0.1, log=True), asked.suggest_categorical("momentum", range(3))
    assert ours["optim.lr"] == pytest.approx(theirs[0], rel=1e-3)
    assert ours["optim.momentum"] == (0.5, 0.9, 0.99)[theirs[1]]


def test_it_settles_where_the_best_points_are():
    space = {"optim.lr": LR, "train.batch": Integer(low=2, high=64, step=2), "head.norm": choice("batch", "group")}
    rng = np.random.default_rng(1)
    seen = []
    for _ in range(40):
        point = {name: dimension.draw(rng) for name, dimension in space.items()}
        near = abs(np.log(point["optim.lr"] / 0.01)) + abs(point["train.batch"] - 16) / 16
        seen.append(finished(point, 1 / (1 + near + (point["head.norm"] == "batch"))))
    found = [Tpe(space, startup=5).propose(seen, (seed,)) for seed in range(20)]
    assert 0.004 < np.median([p["optim.lr"] for p in found]) < 0.025
    assert 8 <= np.median([p["train.batch"] for p in found]) <= 28
    assert sum(p["head.norm"] == "group" for p in found) > 13
    assert all(isinstance(p["train.batch"], int) and p["train.batch"] % 2 == 0 for p in found)


def test_values_exist_only_under_their_condition():
    seen = []
    for i in range(20):
        point = {"head.name": "gald", "head.kernel_size": (3, 5, 7)[i % 3]} if i % 2 else {"head.name": "fcn"}
        seen.append(finished(point, {3: 0.2, 5: 0.9, 7: 0.3}.get(point.get("head.kernel_size"), 0.9)))
    found = [Tpe(HEADS, startup=2).propose(seen, (seed,)) for seed in range(30)]
    for point in found:
        assert ("head.kernel_size" in point) == (point["head.name"] == "gald")
    sizes = [p["head.kernel_size"] for p in found if p["head.name"] == "gald"]
    assert sizes.count(5) > len(sizes) / 2 > 3
    assert len(sizes) < 28  # both heads are named


def test_where_trials_run_it_looks_elsewhere():
    space = {"optim.lr": Uniform(low=0.0, high=1.0)}
    seen = [finished({"optim.lr": x}, 1 - (x - 0.5) ** 2) for x in np.linspace(0.05, 0.95, 12).round(2).tolist()]
    running = [Seen({"optim.lr": x}, "running", {}, None) for x in (0.46, 0.48, 0.5, 0.52, 0.54)]

    def near(told):
        found = [Tpe(space, startup=2).propose(told, (seed,))["optim.lr"] for seed in range(30)]
        return sum(abs(x - 0.5) < 0.06 for x in found)

    assert near(seen + running) < near(seen)


def test_what_failed_says_nothing_of_its_point():
    space = {"optim.lr": LR}
    seen = [finished({"optim.lr": 0.001 * (i + 1)}, i / 10) for i in range(12)]
    failed = [Seen({"optim.lr": 0.05}, "failed", {}, None)] * 3
    assert Tpe(space, startup=2).propose(seen + failed, (0,)) == Tpe(space, startup=2).propose(seen, (0,))


def test_a_point_of_another_space_is_left_out():
    space = {"optim.lr": LR, "optim.momentum": choice(0.5, 0.9)}
    seen = [finished({"optim.lr": 0.001 * (i + 1), "optim.momentum": 0.9}, i / 10) for i in range(12)]
    others = [{"optim.lr": 0.5, "optim.momentum": 0.9}, {"optim.lr": 0.01, "optim.momentum": 0.7}, {"optim.lr": 0.01}]
    told = Tpe(space, startup=2).propose([*seen, *(finished(point, 9.9) for point in others)], (0,))
    assert told == Tpe(space, startup=2).propose(seen, (0,))


def test_two_objectives_come_to_both_ends_of_the_front(made):
    settings = {"space": {"head.channels": Integer(low=16, high=256, step=16), "optim.lr": LR}}
    sweep = made("tpe", trials=8, objectives=("miou", "-parameters"), num_classes=11, **settings)
    search = sweep.search()
    play(search, selftest.surface(sweep.base), slots=2)
    for key, seen in search._seen.items():
        miou, parameters = seen.values
        assert miou == max(seen.curve.values())
        assert -parameters == search.maker.parameters[key] > 1e6
    assert len({seen.values[1] for seen in search._seen.values()}) > 3


def test_the_values_are_those_of_the_best_evaluation(made):
    search = made("tpe", trials=4, objectives=("miou", "-latency_ms")).search()
    key = search.suggest().trial.key
    for step, miou, latency_ms in ((10, 0.4, 11.0), (20, 0.5, 12.0), (30, 0.3, 13.0)):
        search.report(key, {"step": step, "miou": miou, "latency_ms": latency_ms})
    assert search._seen[key].values == (0.5, -12.0)


def test_a_report_without_the_objective_is_refused(made):
    search = made("tpe", trials=4, objectives=("miou", "-latency_ms")).search()
    key = search.suggest().trial.key
    with pytest.raises(UsageError, match=f"trial {key} reports no latency_ms"):
        search.report(key, {"step": 10, "miou": 0.5})
    assert search.report(key, {"step": 10, "miou": 0.5, "latency_ms": 12.0}) is None


# --- no point twice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3])
def test_a_small_space_is_run_once_through_and_no_further(made, slots):
    space = {"optim.lr": choice(0.01, 0.03, 0.1), "optim.momentum": choice(0.5, 0.9)}
    sweep = made("tpe", trials=50, space=space)
    played = play(sweep.search(), selftest.surface(sweep.base), slots=slots)
    points = [tuple(t.point.values()) for t in played.trials.values()]
    assert sorted(points) == sorted((lr, m) for lr in (0.01, 0.03, 0.1) for m in (0.5, 0.9))


def test_points_that_build_the_same_and_train_alike_are_one(made, monkeypatch):
    """Here only the model is compared, and no point changes it: the first trial is all there is to run."""
    proved = trial.built
    monkeypatch.setattr(
        "rayseg.sweep.maker.built", lambda made, classes: [b._replace(outside="") for b in proved(made, classes)]
    )
    space = {"optim.lr": choice(0.01, 0.03, 0.1)}
    search = made("tpe", trials=9, space=space, num_classes=11).search()
    assert isinstance(search.suggest(), Suggestion)
    assert search.suggest() == "done"


def test_the_model_is_told_of_a_point_that_it_names_again(made):
    search = made("tpe", trials=9, space={"optim.lr": choice(0.01, 0.03)}).search()
    first = search.suggest().trial
    search.report(first.key, {"step": 80, "miou": 0.5})
    search.ended(first.key, "finished")
    told = []
    search.model.propose = lambda seen, seeds: told.append((len(seen), seeds)) or first.point
    assert search.suggest().trial.point != first.point
    assert [n for n, _ in told] == list(range(1, 9))
    assert len({seeds for _, seeds in told}) == 8


def test_points_that_do_not_hold_cost_no_trial_and_are_named(made):
    search = made("tpe", trials=6).search()
    whole = search.maker.base.trial

    def picky(base, number, point):
        if point.get("optim.momentum", 0) > 0.7:
            raise UsageError("too fast", "optim.momentum", "slow down")
        return whole(number, point)

    type(search.maker.base).trial, kept = picky, type(search.maker.base).trial
    try:
        named = []
        while isinstance(answer := search.suggest(), Suggestion):
            named.append(answer.trial)
            search.report(answer.trial.key, {"step": 80, "miou": 0.5})
            search.ended(answer.trial.key, "finished")
    finally:
        type(search.maker.base).trial = kept
    assert len(named) == 6
    assert all(t.point["optim.momentum"] <= 0.7 for t in named)
    assert search.refused
    assert len(search.closing()) == len(search.refused)
    assert "too fast" in search.closing()[0]


@pytest.mark.parametrize("algorithm", ["random", "tpe", "asha", "bohb"])
def test_what_is_known_is_not_run_again(made, algorithm):
    space = {"optim.lr": choice(0.01, 0.03, 0.1), "optim.momentum": choice(0.5, 0.9)}
    fields = {"grace_steps": 10} if algorithm in ("asha", "bohb") else {}
    first = made(algorithm, trials=6, space=space, **fields)
    peak = selftest.surface(first.base)
    before = list(play(first.search(), peak, slots=1).trials.values())
    known = [Known(t, {80: peak(t)}, {"step": 80, "miou": peak(t)}) for t in before[:4]]
    left = play(made(algorithm, trials=6, space=space, known=known, **fields).search(), peak, slots=1).trials
    assert {t.key for t in left.values()} == {t.key for t in before[4:]}


@pytest.mark.parametrize("algorithm", ["pbt", "ladder"])
def test_known_points_that_would_be_ignored_are_refused(made, algorithm):
    fields = {"ladder": {"trials": 4, "rungs": ({"train.steps": 20}, {})}, "pbt": {"perturb_steps": 20}}[algorithm]
    sweep = made(algorithm, **fields)
    before = sweep.base.trial(1, {})
    with pytest.raises(UsageError, match="earlier runs would be ignored"):
        made(algorithm, known=[Known(before, {80: 0.5}, {"step": 80, "miou": 0.5})], **fields).search()


# --- BOHB -----------------------------------------------------------------------------------------------------------


def on_rungs(lr, *scores):
    return Seen({"optim.lr": lr}, "stopped", dict(zip((10, 30, 80), scores, strict=False)), (scores[-1],))


def test_bohb_fits_the_highest_rung_with_enough_results(monkeypatch):
    asked = []
    monkeypatch.setattr("rayseg.sweep.bohb.Tpe.propose", lambda self, seen, seeds: asked.append(list(seen)) or {})
    model = Bohb({"optim.lr": LR}, (10, 30, 80))
    assert model.enough() == 4  # one name: N_min = 2, and two more
    low = [on_rungs(0.001 * (i + 1), i / 10) for i in range(5)]
    high = [on_rungs(0.01 * (i + 1), 0.5, i / 10) for i in range(3)]
    running = [Seen({"optim.lr": 0.02}, "running", {}, None)]
    seeds = next((s,) for s in range(99) if np.random.default_rng([s, 1]).random() > 1 / 3)
    model.propose([*low, *high, *running], seeds)
    assert [s.values for s in asked[0]] == [*((i / 10,) for i in range(5)), (0.5,), (0.5,), (0.5,), None]
    model.propose([*low, *high, on_rungs(0.05, 0.5, 0.9), *running], seeds)
    assert [s.values for s in asked[1]] == [(0.0,), (0.1,), (0.2,), (0.9,), None]
    assert asked[1][-1].state == "running"


def test_a_third_of_bohbs_points_is_drawn():
    model = Bohb({"optim.lr": LR}, (10, 80))
    # All good points in one corner: what falls outside of it was drawn.
    seen = [on_rungs(0.09 + 0.0005 * i, 0.9) for i in range(20)] + [on_rungs(0.001 * (i + 1), 0.1) for i in range(20)]
    found = [model.propose(seen, (7, n, 0))["optim.lr"] for n in range(150)]
    outside = sum(lr < 0.05 for lr in found)
    assert 25 < outside < 75


def test_few_results_are_no_model():
    model = Bohb({"optim.lr": LR}, (10, 80))
    told = model.propose([on_rungs(0.01, 0.5)], (1, 2))
    assert told == {"optim.lr": LR.draw(np.random.default_rng((1, 2)))}

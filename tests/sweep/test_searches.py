"""What every search keeps: told the same story it decides the same, no key twice, and it does what it is for."""

import copy
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayseg.errors import TrainingError, UsageError
from rayseg.sweep import selftest
from rayseg.sweep.preset import ALGORITHMS
from rayseg.sweep.search import Suggestion
from rayseg.sweep.selftest import play
from rayseg.sweep.space import choice

RUNGS = ({"train.steps": 20}, {"train.steps": 40}, {})
EACH = {
    "grid": {"space": {"optim.lr": choice(0.01, 0.03, 0.1), "optim.momentum": choice(0.5, 0.9)}},
    "random": {"trials": 10},
    "asha": {"trials": 16, "grace_steps": 10, "recheck": 2},
    "hyperband": {"trials": 16, "grace_steps": 10, "recheck": 2},
    "tpe": {"trials": 10},
    "bohb": {"trials": 14, "grace_steps": 10, "recheck": 1},
    "pbt": {"population": 5, "perturb_steps": 20},
    "ladder": {"trials": 12, "rungs": RUNGS, "recheck": 2},
}
QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_every_algorithm_is_here():
    assert set(EACH) == set(ALGORITHMS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@QUICK
@given(data=st.data(), slots=st.integers(1, 8), seed=st.integers(0, 10**6), failing=st.sampled_from([0.0, 0.1]))
def test_told_the_story_it_decides_the_same(made, algorithm, data, slots, seed, failing):
    sweep = made(algorithm, **EACH[algorithm])
    whole = sweep.search()
    played = play(whole, selftest.surface(sweep.base), slots=slots, seed=seed, failing=failing)
    cut = data.draw(st.integers(0, len(played.events)))
    again = sweep.search()
    for number, event in enumerate(played.events):
        if number == cut:
            again = copy.deepcopy(again)
        tell(again, event)
    assert again.suggest() == "done"
    assert again.closing() == whole.closing()


def tell(search, event):
    """Tell a search one line of the journal, which is JSON."""
    if event.kind == "suggest":
        answer = search.suggest()
        assert isinstance(answer, Suggestion)
        assert (answer.trial.key, answer.donor) == (event.key, event.detail)
    elif event.kind == "report":
        search.report(event.key, json.loads(json.dumps(event.detail)))
    else:
        search.ended(event.key, event.detail)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@QUICK
@given(data=st.data(), slots=st.integers(1, 4))
def test_killed_at_any_event_it_goes_on(made, algorithm, data, slots):
    """Alone, a trial has nothing beside it: the interrupted sweep is the uninterrupted one, event by event."""
    sweep = made(algorithm, **EACH[algorithm])
    peak = selftest.surface(sweep.base)
    whole = play(sweep.search(), peak, slots=slots)
    cut = data.draw(st.integers(0, len(whole.events)))
    resumed = play(sweep.search(), peak, slots=slots, seed=1, after=whole.events[:cut])
    assert resumed.events[:cut] == whole.events[:cut]
    ended = Counter(event.key for event in resumed.events if event.kind == "ended")
    assert set(ended) == set(resumed.trials)
    assert max(ended.values()) == 1
    if slots == 1:
        assert resumed == whole


@pytest.mark.parametrize("algorithm", ["asha", "tpe", "bohb", "pbt", "ladder"])
def test_asking_while_it_waits_changes_nothing(made, algorithm):
    sweep = made(algorithm, **EACH[algorithm])
    impatient, patient = sweep.search(), sweep.search()
    ask = impatient.suggest

    def often():
        answer = ask()
        for _ in range(3 if answer in ("wait", "done") else 0):
            assert ask() == answer
        return answer

    impatient.suggest = often
    peak = selftest.surface(sweep.base)
    assert play(impatient, peak, slots=3).events == play(patient, peak, slots=3).events


@pytest.mark.parametrize("algorithm", ["asha", "hyperband", "bohb", "pbt", "ladder"])
def test_the_self_test_counts_what_a_search_is_for(made, algorithm):
    sweep = made(algorithm, **EACH[algorithm])
    lines = selftest.check(sweep.search, selftest.surface(sweep.base))
    assert len(lines) == 4
    assert not any(" 0 " in line for line in lines)


def test_the_self_test_fails_where_nothing_is_stopped(made):
    sweep = made("asha", **EACH["asha"])

    def lenient():
        search = sweep.search()
        search.search.rule = None
        return search

    with pytest.raises(TrainingError, match="no trial was stopped"):
        selftest.check(lenient, selftest.surface(sweep.base))


def test_the_self_test_fails_where_nobody_is_exploited(made):
    sweep = made("pbt", **EACH["pbt"])

    def peaceful():
        search = sweep.search()
        search._clone = lambda place, best, taken: search._onward(place)
        return search

    with pytest.raises(TrainingError, match="no trial was exploited"):
        selftest.check(peaceful, selftest.surface(sweep.base))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_copy_can_be_played_without_touching_the_search(made, algorithm):
    sweep = made(algorithm, **EACH[algorithm])
    peak = selftest.surface(sweep.base)
    search = sweep.search()
    play(copy.deepcopy(search), peak, slots=2)
    assert play(search, peak, slots=2).events == play(sweep.search(), peak, slots=2).events


def test_all_trials_failing_ends_every_search(made):
    for algorithm, fields in EACH.items():
        sweep = made(algorithm, **fields)
        played = play(sweep.search(), selftest.surface(sweep.base), slots=2, failing=1.0)
        assert set(played.outcomes.values()) == {"failed"}
        assert played.steps == 0


def test_rechecked_trials_go_on_from_where_they_were_stopped(made):
    sweep = made("asha", trials=16, grace_steps=10, recheck=3)
    search = sweep.search()
    played = play(search, selftest.surface(sweep.base), slots=4)
    assert len(search.continued) == 3
    for event in played.events:
        if event.kind == "suggest" and event.detail is not None:
            last = [e.detail["step"] for e in played.events if e.kind == "report" and e.key == event.detail.key][-1]
            assert event.detail.step == last
            assert played.outcomes[event.detail.key] == "stopped"
            assert played.outcomes[event.key] == "finished"
            assert played.trials[event.key].config == played.trials[event.detail.key].config
    checked = [p for p in search.scored() if p.checked]
    assert {p.name for p in checked} == set(search.continued.values())
    assert sum(f"{p.name} stopped at rung" in line for p in checked for line in search.closing()) == 3


def test_what_is_stopped_is_not_drawn_by_who_ended_first(made):
    def chosen(slots):
        sweep = made("random", trials=12)
        search = made("asha", trials=12, grace_steps=10, recheck=2).search()
        stop = set(sorted(t.key for t in search.search.trials)[:6])
        search.search.rule.judge = lambda key, step, miou: "stopped" if key in stop else None
        play(search, selftest.surface(sweep.base), slots=slots, seed=slots)
        return set(search.continued.values())

    assert chosen(1) == chosen(3) == chosen(8)


def test_halving_that_stops_nothing_is_refused(made):
    with pytest.raises(UsageError, match="no trial would ever be stopped"):
        made("asha", trials=4, grace_steps=80).search()


def test_the_first_rung_is_the_first_evaluation_where_no_other_is_given(made):
    made_so = made("asha", trials=4, reduction_factor=2)  # evaluated every 10 steps, of 80
    assert made_so.search().rule.steps() == [10, 20, 40]
    assert made("asha", trials=4, reduction_factor=2, grace_steps=20).search().rule.steps() == [20, 40]


def test_a_population_is_compared_at_each_evaluation_where_nothing_else_is_given(made):
    assert made("pbt", population=4).search().generations == 8  # of 80 steps, evaluated every 10


# --- quality: pairs over seeds, so that luck with the surface cancels out -------------------------------------------


def test_halving_takes_fewer_steps_to_nearly_the_same_best(made):
    spent, lost = Counter(), Counter()
    seeds = range(10)
    for seed in seeds:
        whole = made("random", trials=16, seed=seed)
        peak = selftest.surface(whole.base)
        full = play(whole.search(), peak, slots=4)
        for algorithm in ("asha", "hyperband"):
            halved = play(made(algorithm, trials=16, seed=seed, grace_steps=10).search(), peak, slots=4)
            spent[algorithm] += halved.steps / full.steps / len(seeds)
            lost[algorithm] += (full.best - halved.best) / len(seeds)
    assert spent["asha"] < 0.6
    assert spent["hyperband"] < 0.8
    assert max(lost.values()) < 0.01


def test_tpe_beats_random_on_the_same_surfaces(made):
    gains = []
    for seed in range(8):
        drawn = made("random", trials=30, seed=seed)
        peak = selftest.surface(drawn.base)
        by_chance = play(drawn.search(), peak, slots=1).best
        gains.append(play(made("tpe", trials=30, seed=seed).search(), peak, slots=1).best - by_chance)
    assert np.mean(gains) > 0.01
    assert np.mean(np.array(gains) > 0) > 0.6

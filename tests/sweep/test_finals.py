"""The finals: who is in them, what still runs, and that a driver that was killed goes on with the same."""

import pytest

from rayseg.errors import UsageError
from rayseg.sweep.costs import Costs, Load, Measured
from rayseg.sweep.finals import is_further
from rayseg.sweep.journal import Journal, tell
from rayseg.sweep.play import foresee
from rayseg.sweep.recorded import Recorded
from rayseg.sweep.search import Suggestion
from rayseg.sweep.searches import Known
from rayseg.sweep.space import choice
from rayseg.train.pace import Pace

RUNGS = ({"train.steps": 20}, {"train.steps": 40}, {})


def drive(search, score, *, fails=(), until=None):
    """Run one trial after the other to its end or its stop; give what was suggested and how each ended."""
    suggested, ends = [], {}
    while isinstance(answer := search.suggest(), Suggestion):
        suggested.append(answer)
        if until is not None and len(suggested) == until:
            return suggested, ends
        ends[answer.trial.key] = run(search, answer, score, fails)
    assert answer == "done"
    return suggested, ends


def run(search, answer, score, fails=()):
    """Run one trial."""
    trial, begin = answer.trial, answer.donor.step if answer.donor else 0
    end = getattr(search, "end", None)
    outcome = "failed" if trial.number in fails else "finished"
    for step in range(begin + 10, trial.config.train.steps + 1 if outcome == "finished" else begin + 11, 10):
        figures = {"step": step, "miou": score(trial, step), "loss": 1.0, "latency_ms": 1.0}
        if search.report(trial.key, figures) is not None:
            outcome = "stopped"
            break
    if end is not None:
        return end(trial.key, failed=outcome == "failed")
    search.ended(trial.key, outcome)
    return outcome


def by_rate(trial, step):
    """The higher the rate the better; longer is better too."""
    return trial.point["optim.lr"] + 0.0001 * step


def best_of(suggested, score=by_rate):
    """Order the search's own trials by their score at the end."""
    return sorted((s.trial for s in suggested if not s.final), key=lambda t: -score(t, 80))


def test_the_best_run_again_with_further_seeds(made):
    sweep = made("random", trials=5, top=2, seeds=3, seed=7)
    search = sweep.search()
    suggested, _ = drive(search, by_rate)
    own, further = suggested[:5], suggested[5:]
    assert not any(s.final for s in own)
    first, second = best_of(suggested)[:2]
    assert [s.final for s in further] == [first.key] * 2 + [second.key] * 2
    assert [s.trial.config.seed for s in further] == [8, 9, 8, 9]
    for s in further:
        origin = {first.key: first, second.key: second}[s.final]
        assert s.trial.config.model_copy(update={"seed": 7}) == origin.config
        assert s.donor is None
        assert is_further(s)
    keys = [s.trial.key for s in suggested]
    assert len(set(keys)) == len(keys)
    assert [s.trial.number for s in suggested] == list(range(1, 10))
    for best in (first, second):
        assert search.groups[best.key] == [best.key, *(s.trial.key for s in further if s.final == best.key)]
    assert len(search.groups) == 2


def test_they_wait_for_the_last_trial_of_the_search(made):
    search = made("random", trials=3, seeds=2).search()
    waiting = [search.suggest() for _ in range(3)]
    assert search.suggest() == "wait"
    for answer in waiting[:2]:
        run(search, answer, by_rate)
        assert search.suggest() == "wait"
    run(search, waiting[2], by_rate)
    assert isinstance(search.suggest(), Suggestion)


def test_what_was_stopped_runs_to_its_end_first(made):
    space = {"optim.lr": choice(*(0.01 * n for n in range(1, 9)))}
    sweep = made("asha", space=space, trials=8, top=3, seeds=2, grace_steps=20, reduction_factor=2)
    search = sweep.search()
    suggested, ends = drive(search, by_rate)
    came = {
        s.trial.key: by_rate(s.trial, 80 if ends[s.trial.key] == "finished" else 20) for s in suggested if not s.final
    }
    assert list(search.groups) == sorted(came, key=lambda key: -came[key])[:3]
    stopped = [key for key in search.groups if ends[key] == "stopped"]
    assert stopped, "the test needs a finalist that was stopped"
    for key in stopped:
        onward = next(s for s in suggested if s.final == key and s.donor)
        assert (onward.donor.key, onward.trial.config.seed) == (key, 0)
        assert onward.donor.step == 20
        assert not is_further(onward)
        assert search.groups[key][0] == onward.trial.key
        assert ends[onward.trial.key] == "finished"
    assert all(len(group) == 2 for group in search.groups.values())


def test_what_a_recheck_ran_to_its_end_is_not_run_again(made):
    space = {"optim.lr": choice(*(0.01 * n for n in range(1, 9)))}
    fields = {"trials": 8, "top": 8, "seeds": 2, "grace_steps": 20, "reduction_factor": 2, "recheck": 2}
    search = made("asha", space=space, **fields).search()
    suggested, ends = drive(search, by_rate)
    rechecked = {s.donor.key: s.trial.key for s in suggested if s.donor and not s.final}
    assert len(rechecked) == 2
    for key, again in rechecked.items():
        assert search.groups[key][0] == again
        assert not any(s.final == key and s.donor for s in suggested)
    assert all(ends[group[0]] == "finished" for group in search.groups.values())


def test_what_failed_is_no_finalist(made):
    search = made("random", trials=4, seeds=2).search()
    suggested, _ = drive(search, lambda trial, step: 1.0 / trial.number, fails=(1, 2))
    assert sorted(search.groups) == sorted(s.trial.key for s in suggested[2:4])


def test_what_an_earlier_sweep_ran_is_run_here(made):
    listed = [s.trial for s in drive(made("random", trials=3).search(), by_rate)[0]]
    best = max(listed, key=lambda t: t.point["optim.lr"])
    known = [Known(best, {80: by_rate(best, 80)}, {"step": 80.0, "miou": by_rate(best, 80)})]
    search = made("random", trials=3, seeds=2, known=known).search()
    suggested, _ = drive(search, by_rate)
    again = [s.trial.key for s in suggested if s.final == best.key]
    assert again[0] == best.key
    assert search.groups[best.key] == again


def test_a_ladders_cheaper_rungs_are_no_finalists(made):
    sweep = made("ladder", trials=6, rungs=RUNGS, fresh=True, reduction_factor=2, top=2, seeds=2)
    search = sweep.search()
    suggested, _ = drive(search, lambda trial, step: trial.point["optim.lr"] - 0.0001 * step)  # short is better
    assert search.groups
    points = {s.trial.key: s.trial.point for s in suggested}
    assert all("train.steps" not in points[key] for key in search.groups)


@pytest.mark.parametrize(
    ("algorithm", "fields", "says"),
    [
        ("ladder", {"trials": 6, "rungs": RUNGS}, "which no other seed has"),
        ("random", {"trials": 1}, "finals of 2 with 1 trials"),
        ("random", {"trials": 4, "top": 5}, "finals of 5 with 4 trials"),
        ("random", {"trials": 3, "space": {"seed": choice(1, 2, 3)}}, "the seed itself is searched"),
        ("random", {"trials": 3, "seed": 2**32 - 2}, "seed"),
    ],
)
def test_finals_that_cannot_be_are_refused_before_anything_starts(made, algorithm, fields, says):
    with pytest.raises(UsageError, match=says):
        made(algorithm, seeds=3, **fields).search()


def test_pbt_reads_nothing_of_seeds(made):
    with pytest.raises(UsageError, match="would be ignored with algorithm = pbt"):
        made("pbt", seeds=2)
    with pytest.raises(UsageError, match="top = 3 would be ignored without seeds"):
        made("random", trials=4, top=3)


@pytest.mark.parametrize("algorithm", ["random", "tpe", "asha"])
def test_a_killed_driver_goes_on_with_the_same_finals(made, tmp_path, algorithm):
    more = {"grace_steps": 20, "reduction_factor": 2} if algorithm == "asha" else {}
    sweep = made(algorithm, trials=4, seeds=3, **more)
    search = sweep.search()
    whole, ends = drive(search, by_rate)
    count = len(whole)
    for kill in range(1, count + 1):
        folder = tmp_path / f"{algorithm}{kill}"
        killed = fresh(sweep, folder)
        before, _ = drive(killed, by_rate, until=kill)
        killed.journal.close()
        again = fresh(sweep, folder)
        assert [s.trial.key for s in again.open()] == [before[-1].trial.key]
        after, _ = drive(again, by_rate)
        again.journal.close()
        assert [s.trial.key for s in [*before, *after[1:]]] == [s.trial.key for s in whole]
        assert after[0].trial.key == before[-1].trial.key
        assert again.search.groups == search.groups
        assert again.outcomes == ends


def fresh(sweep, folder):
    """Make the search anew and tell it what the journal has."""
    story = tell(folder)
    recorded = Recorded(sweep.search(), Journal(folder))
    if story is None:
        recorded.journal.write("plan", {})
    else:
        recorded.resume(story)
    return recorded


def test_the_journal_names_the_finalist(made, tmp_path):
    recorded = fresh(made("random", trials=3, seeds=2), tmp_path)
    suggested, _ = drive(recorded, by_rate)
    recorded.journal.close()
    told = [event.get("final", "") for event in tell(tmp_path).events if event["event"] == "suggest"]
    assert told == [s.final for s in suggested]


def test_a_plan_counts_them(made):
    """Three trials, then two further ones, 80 steps each."""
    search = made("random", trials=3, seeds=2).search()
    any_trial = search.maker.base.trial(1, {"optim.lr": 0.01, "optim.momentum": 0.9, "loss.aux_weight": 0.5})
    costs = Costs([Measured(any_trial, Pace(0, 1, 0, 0, 0, 0))], lambda config: Load(1, 1), val_images=0)
    found = foresee(search, costs, slots=1)
    assert (found.trials, found.steps) == (5, 400)

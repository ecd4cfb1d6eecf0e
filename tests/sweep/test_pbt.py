"""PBT: who is replaced, by whom and with which values; what it cannot search is refused before anything starts."""

import numpy as np
import pytest

from rayseg.errors import UsageError
from rayseg.sweep import selftest
from rayseg.sweep.pbt import explore
from rayseg.sweep.search import Donor
from rayseg.sweep.selftest import play
from rayseg.sweep.space import Integer, Uniform, choice

LR = Uniform(low=0.001, high=0.1, log=True)


def generations(search):
    found = {}
    for ancestor in search.lineage:
        found.setdefault(ancestor.generation, []).append(ancestor)
    return found


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_the_lowest_quarter_goes_on_from_the_highest(made, slots):
    sweep = made("pbt", population=8, perturb_steps=20)
    search = sweep.search()
    played = play(search, selftest.surface(sweep.base), slots=slots, seed=slots)
    scores = {}
    for event in played.events:
        if event.kind == "report":
            scores[event.key] = event.detail["miou"]
    by_generation = generations(search)
    assert [len(members) for members in by_generation.values()] == [8] * 4
    for number in range(1, 4):
        before = sorted((a.key for a in by_generation[number - 1]), key=lambda key: scores[key])
        member = {a.key: a.member for a in by_generation[number - 1]}
        for a in by_generation[number]:
            own = next(key for key in before if member[key] == a.member)
            if own in before[:2]:
                assert a.exploited
                assert a.donor in before[-2:]
                assert played.trials[a.key].config != played.trials[a.donor].config
            else:
                assert not a.exploited
                assert a.donor == own
                assert played.trials[a.key].config == played.trials[own].config
    lines = search.closing()
    assert lines[0] == "population: 6 exploited and perturbed, 18 went on by themselves"
    assert len(lines) == 33


def test_a_clone_ends_at_the_steps_of_all(made):
    sweep = made("pbt", population=4, perturb_steps=30)
    search = sweep.search()
    played = play(search, selftest.surface(sweep.base), slots=2)
    ends = [e.detail["step"] for e in played.events if e.kind == "report"]
    assert max(ends) == 80
    assert {t.config.train.steps for t in played.trials.values()} == {80}
    assert sum(outcome == "finished" for outcome in played.outcomes.values()) == 4
    assert {e.detail.step for e in played.events if e.kind == "suggest" and e.detail} == {30, 60}
    assert played.steps == 4 * 80  # no step is done twice


def test_a_failed_member_goes_on_from_a_good_one(made):
    sweep = made("pbt", population=4, perturb_steps=40)
    search = sweep.search()
    first = [search.suggest().trial.key for _ in range(4)]
    assert search.suggest() == "wait"
    for key, miou in zip(first[:3], (0.3, 0.5, 0.4), strict=True):
        assert "stopped at step 40 by PBT: generation 1 of 2 is over" in search.report(key, {"step": 40, "miou": miou})
        search.ended(key, "stopped")
    search.ended(first[3], "failed")
    bred = [search.suggest() for _ in range(4)]
    assert [s.donor.key for s in bred] == [*first[:3], first[1]]
    assert bred[3].note == f"member 4 failed, goes on from {first[1]} at step 40 with other values"


def test_the_same_population_whoever_ends_first(made):
    sweep = made("pbt", population=6, perturb_steps=20)
    lineages = []
    for slots in (1, 2, 6):
        search = sweep.search()
        play(search, selftest.surface(sweep.base), slots=slots, seed=slots)
        lineages.append(search.lineage)
    assert lineages[0] == lineages[1] == lineages[2]


def test_a_population_follows_what_is_best_now(made):
    """The best learning rate falls on the way: who may change it comes further than any that keeps its own."""
    space = {"optim.lr": LR}
    whole = made("pbt", population=8, perturb_steps=10, space=space)
    alone = made("random", trials=8, space=space)
    steps = {}

    def gain(trial):
        # Wanted is a rate that halves every 20 steps; the peak that a trial heads for falls with its distance.
        at = steps[trial.key] = steps.get(trial.key, 0) + 10
        return float(np.exp(-abs(np.log(trial.point["optim.lr"] / (0.08 * 0.5 ** (at / 20))))))

    class Following:
        """Knows at which step a trial is: a clone's own begins with its donor's."""

        def __init__(self, search):
            self.search = search
            self.report, self.ended = search.report, search.ended

        def suggest(self):
            answer = self.search.suggest()
            if not isinstance(answer, str) and answer.donor:
                steps[answer.trial.key] = answer.donor.step
            return answer

    followed = play(Following(whole.search()), gain, slots=8).best
    steps.clear()
    assert followed > play(Following(alone.search()), gain, slots=8).best


def test_values_move_as_in_the_paper():
    space = {"optim.lr": LR, "train.log_every": Integer(low=1, high=9), "optim.momentum": choice(0.5, 0.7, 0.9, 0.99)}
    start = {"optim.lr": 0.01, "train.log_every": 4, "optim.momentum": 0.7}
    rng = np.random.default_rng(0)
    found = [explore(start, space, rng) for _ in range(2000)]
    rates = [p["optim.lr"] for p in found]
    lower, higher = rates.count(0.008) / 2000, rates.count(0.012) / 2000
    assert lower == pytest.approx(0.375, abs=0.04)
    assert higher == pytest.approx(0.375, abs=0.04)
    momenta = [p["optim.momentum"] for p in found]
    shares = [momenta.count(m) / 2000 for m in (0.5, 0.7, 0.9, 0.99)]
    assert shares == pytest.approx([0.4375, 0.0625, 0.4375, 0.0625], abs=0.04)
    assert {p["train.log_every"] for p in found} == set(range(1, 10))
    counts = [p["train.log_every"] for p in found]
    assert counts.count(3) + counts.count(5) > 1500
    ends = [explore({"optim.lr": 0.1}, {"optim.lr": LR}, rng)["optim.lr"] for _ in range(50)]
    assert max(ends) == 0.1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"space": {"head.kernel_size": choice(3, 5)}}, "'head.kernel_size' changes the model"),
        ({"space": {"loss.aux_weight": choice(0.0, 0.4)}}, "'loss.aux_weight' changes the model"),
        ({"space": {"train.batch": choice(4, 8)}}, "'train.batch' cannot change on the way"),
        ({"space": {"seed": choice(1, 2, 3, 4)}}, "'seed' cannot change on the way"),
        ({"perturb_steps": 15}, "perturb_steps = 15, eval_every = 10"),
        ({"perturb_steps": 80}, "perturb_steps = 80 of train.steps = 80"),
        ({"space": {"optim.momentum": choice(0.5, 0.9)}}, "2 different points for a population of 4"),
    ],
)
def test_what_it_cannot_search_is_refused_before_anything_starts(made, fields, said):
    with pytest.raises(UsageError) as caught:
        made("pbt", **({"population": 4, "perturb_steps": 20} | fields)).search()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_do_not_hold_together_are_not_taken(made, monkeypatch):
    sweep = made("pbt", population=4, perturb_steps=20)
    search = sweep.search()
    whole = search.maker.base.trial

    def picky(base, number, point):
        if number > 4 and point["optim.momentum"] < 0.8 and point not in first:
            raise UsageError("too slow", "optim.momentum", "hurry")
        return whole(number, point)

    first = [s.trial.point for _, s in search._next]
    monkeypatch.setattr(type(search.maker.base), "trial", picky)
    played = play(search, selftest.surface(sweep.base), slots=4)
    assert len(played.trials) == 16
    clones = [a.point for a in search.lineage if a.exploited]
    assert all(point["optim.momentum"] >= 0.8 for point in clones if point not in first)


def test_two_clones_of_one_commit_are_two_runs(made):
    maker = made("pbt", population=4, perturb_steps=20).search().maker
    first, second = (maker.onward(Donor("3fa29c01", 20), {"optim.lr": 0.02}) for _ in range(2))
    assert first.config == second.config
    assert len({first.key, second.key, maker.base.trial(1, {"optim.lr": 0.02}).key}) == 3

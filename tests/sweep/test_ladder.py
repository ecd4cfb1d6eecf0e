"""The ladder: promotions as in the ASHA paper's algorithm, weights carried or not, stopped points checked."""

import pytest

from rayseg.errors import UsageError
from rayseg.sweep import selftest
from rayseg.sweep.search import Suggestion
from rayseg.sweep.selftest import play
from rayseg.sweep.space import choice

STEPS = ({"train.steps": 20}, {"train.steps": 40}, {})


def naive_job(rungs, promoted, factor, points_left):
    """Algorithm 2 of the ASHA paper, `get_job`, word by word: rungs of (score, point) that came to their end."""
    for k in range(len(rungs) - 2, -1, -1):
        best = sorted(rungs[k], key=lambda each: (-each[0], each[1]))[: len(rungs[k]) // factor]
        promotable = [point for _, point in best if point not in promoted[k]]
        if promotable:
            promoted[k].add(promotable[0])
            return promotable[0], k + 1
    return (points_left.pop(0), 0) if points_left else None


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("factor", [2, 3])
def test_promotes_as_the_papers_algorithm_does(made, slots, factor):
    sweep = made("ladder", trials=20, rungs=STEPS, reduction_factor=factor)
    search = sweep.search()
    played = play(search, selftest.surface(sweep.base), slots=slots, seed=slots)
    rungs, promoted = [[], [], []], [set(), set()]
    left, best, checked = list(range(20)), {}, 0
    for event in played.events:
        if event.kind == "suggest":
            climb = search.climbs[event.key]
            job = naive_job(rungs, promoted, factor, left)
            if job is None:
                break  # the stream of points is over, and from here on the paper has no word
            assert (climb.point, climb.rung) == job
            checked += 1
        elif event.kind == "report":
            best[event.key] = max(event.detail["miou"], best.get(event.key, 0))
        else:
            climb = search.climbs[event.key]
            rungs[climb.rung].append((best[event.key], climb.point))
    assert checked > 20


def test_the_highest_promotion_comes_first(made):
    search = made("ladder", trials=6, rungs=STEPS, reduction_factor=2).search()

    def end(answers, step):
        for answer in answers:
            search.report(answer.trial.key, {"step": step, "miou": 0.1 + answer.trial.number / 100})
            search.ended(answer.trial.key, "finished")

    low = [search.suggest() for _ in range(6)]
    end(low[:4], 20)
    middle = [search.suggest() for _ in range(2)]
    assert [search.climbs[s.trial.key].rung for s in middle] == [1, 1]
    end([*low[4:], *middle], 40)  # now one is due on each rung
    due = [search.suggest() for _ in range(2)]
    assert [search.climbs[s.trial.key].rung for s in due] == [2, 1]


def test_a_point_comes_to_the_full_run_even_of_a_few(made):
    sweep = made("ladder", trials=4, rungs=STEPS, reduction_factor=3)
    search = sweep.search()
    played = play(search, selftest.surface(sweep.base), slots=2)
    scored = search.scored()
    assert sum(p.full is not None for p in scored) == 1
    best = max(scored, key=lambda p: p.at[0])
    assert best.full is not None
    assert len(played.trials) in (6, 7)  # 7 where the best comes last, after another was promoted


def test_weights_are_carried_to_the_next_rung(made):
    sweep = made("ladder", trials=9, rungs=STEPS)
    search = sweep.search()
    played = play(search, selftest.surface(sweep.base), slots=2)
    for event in played.events:
        if event.kind == "suggest" and (climb := search.climbs[event.key]).rung:
            below = search.climbs[event.detail.key]
            assert (below.point, below.rung) == (climb.point, climb.rung - 1)
            assert event.detail.step == STEPS[climb.rung - 1]["train.steps"]
            steps = played.trials[event.key].config.train.steps
            assert steps == STEPS[climb.rung].get("train.steps", 80)
    assert search.promotions == sum(c.rung > 0 for c in search.climbs.values())


def test_afresh_each_rung_is_a_run_of_its_own(made):
    rungs = ({"augment.crop_px": [64, 64]}, {"augment.crop_px": [96, 96]}, {})
    sweep = made("ladder", trials=6, rungs=rungs, fresh=True, reduction_factor=2, recheck=1)
    search = sweep.search()
    played = play(search, selftest.surface(sweep.base), slots=2)
    assert all(e.detail is None for e in played.events if e.kind == "suggest")
    crops = {search.climbs[k].rung: t.config.augment.crop_px for k, t in played.trials.items()}
    assert crops == {0: (64, 64), 1: (96, 96), 2: (128, 128)}


@pytest.mark.parametrize("fresh", [False, True])
def test_stopped_points_are_run_through_all_rungs_to_check_them(made, fresh):
    sweep = made("ladder", trials=12, rungs=STEPS, recheck=3, fresh=fresh)
    search = sweep.search()
    played = play(search, selftest.surface(sweep.base), slots=3)
    scored = search.scored()
    checked = [p for p in scored if p.checked]
    assert len(checked) == 3
    assert all(set(p.at) == {0, 1} for p in checked)
    again = [t for t in played.trials.values() if search.climbs[t.key].point in search._stopped]
    assert {search.climbs[t.key].rung for t in again} == {0, 1, 2}
    # They do not compete: nobody is promoted because of them.
    unchecked = made("ladder", trials=12, rungs=STEPS, fresh=fresh).search()
    play(unchecked, selftest.surface(sweep.base), slots=3)
    assert unchecked.promotions == search.promotions
    assert "3 of" in "\n".join(search.closing())


def test_the_same_points_are_checked_whoever_ends_first(made):
    def chosen(slots):
        sweep = made("ladder", trials=6, rungs=STEPS, reduction_factor=6, recheck=2)
        search = sweep.search()
        play(search, selftest.surface(sweep.base), slots=slots, seed=slots)
        return search._checked

    assert chosen(1) == chosen(3) == chosen(6)


def test_a_failed_point_does_not_climb(made):
    search = made("ladder", trials=4, rungs=STEPS, reduction_factor=2).search()
    first = [search.suggest().trial.key for _ in range(4)]
    for key, miou in zip(first, (0.9, 0.5, 0.4, 0.3), strict=True):
        search.report(key, {"step": 20, "miou": miou})
        search.ended(key, "failed" if miou == 0.9 else "finished")
    answer = search.suggest()
    assert isinstance(answer, Suggestion)
    assert answer.donor.key == first[1]
    assert answer.note == f"{first[1]} promoted: rung 2 of 3"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rungs": ({"data.val_samples": 4}, {})}, "rung 2 ends at step 80, where its weights come from 80"),
        ({"rungs": ({"train.steps": 20, "head.channels": 32}, {})}, "rung 2 changes the model"),
        ({"rungs": ({"train.steps": 20, "data.share": 0.5}, {})}, "rung 2 changes data.share"),
        ({"rungs": ({"train.steps": 20, "data.mixed_shards": 2}, {})}, "rung 2 changes data.mixed_shards"),
        ({"rungs": ({"train.steps": 80}, {}), "fresh": True}, "two rungs are the same run"),
        ({"rungs": ({"optim.lr": 0.1, "train.steps": 20}, {})}, "'optim.lr' is searched and set by a rung"),
        ({"rungs": ({"train.steps": -1}, {})}, "train.steps = -1"),
        ({"rungs": ({"train.stepz": 4}, {})}, "unknown key 'train.stepz'"),
    ],
)
def test_rungs_that_cannot_be_climbed_are_refused_before_anything_starts(made, fields, said):
    with pytest.raises(UsageError) as caught:
        made("ladder", trials=4, **fields).search()
    assert said in str(caught.value)


def test_output_stride_is_a_rung_that_keeps_the_weights(made):
    rungs = ({"train.steps": 20, "backbone.output_stride": 32}, {"train.steps": 40, "backbone.output_stride": 16}, {})
    search = made("ladder", trials=3, rungs=rungs, space={"optim.lr": choice(0.01, 0.02, 0.03)}).search()
    assert search.suggest().trial.config.backbone.output_stride == 32

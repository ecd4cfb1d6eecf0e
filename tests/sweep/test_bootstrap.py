"""Intervals of mIoU differences, held against a naive loop and against populations whose true difference is known."""

import time

import numpy as np
import pytest

from rayseg.sweep.bootstrap import against, miou, scored

IMAGES, CLASSES, DRAWS = 80, 6, 400


class World:
    """An endless split and methods judged on it; what a method does on an image is drawn anew for each seed.

    `shared` is how much images differ for all methods alike, `own` for each method, `seeds` how much whole trainings
    differ, `mixed` how much a training differs from image to image.
    """

    def __init__(self, seed, lead=(0.0, 0.04), shared=0.12, own=0.05, seeds=0.0, mixed=0.0, pool=4000):
        self.rng = np.random.default_rng(seed)
        there = self.rng.random((pool, CLASSES)) < np.linspace(1.0, 0.25, CLASSES)
        self.truth = np.rint(there * 9000 * self.rng.beta(0.8, 3, (pool, CLASSES))).astype(np.int64)
        self.wrong = np.rint(there * 2000 * self.rng.beta(0.8, 3, (pool, CLASSES))).astype(np.int64)
        ease = self.rng.normal(0.6, shared, (pool, 1)) + self.rng.normal(0, 0.05, CLASSES)
        self.recall = [ease + each + self.rng.normal(0, own, (pool, CLASSES)) for each in lead]
        self.seeds, self.mixed = seeds, mixed

    def judged(self, method, rows):
        """Count one seed's evaluation of these images."""
        training = self.rng.normal(0, self.seeds, CLASSES) + self.rng.normal(0, self.mixed, (len(rows), CLASSES))
        recall = np.clip(self.recall[method][rows] + training, 0, 1)
        hits = np.rint(self.truth[rows] * recall).astype(np.int64)
        return np.stack([hits, self.truth[rows], hits + self.wrong[rows]])

    def true_miou(self, method, seeds=200):
        """Average the whole population's mIoU over many seeds, by sums of integers and Python's own division."""
        everything = np.arange(len(self.truth))
        return np.mean([plain_miou(self.judged(method, everything)) for _ in range(seeds)])

    def sample(self, seeds, images=IMAGES):
        """Judge every method with so many seeds on the same images, drawn from the population."""
        rows = self.rng.integers(len(self.truth), size=images)
        return [[self.judged(method, rows) for _ in range(seeds)] for method in range(len(self.recall))]


def plain_miou(counts):
    """The mean IoU of counts (3,N,C), class by class."""
    found = []
    for c in range(counts.shape[2]):
        hits, truth, predicted = (int(counts[i, :, c].sum()) for i in range(3))
        if truth + predicted - hits > 0:
            found.append(hits / (truth + predicted - hits))
    return sum(found) / len(found)


def coverage(world, *, seeds, sets, truth):
    """Say how often the interval has the true difference, and how wide it is on average."""
    inside, widths = 0, []
    for number in range(sets):
        one, other = scored(world.sample(seeds), draws=DRAWS, seed=number)
        (interval,) = against(other, [one], seed=number)
        inside += interval.low <= truth <= interval.high
        widths.append(interval.high - interval.low)
    return inside / sets, np.mean(widths)


def test_it_is_the_naive_loop_over_the_same_draws():
    first, second = (each[0] for each in World(0).sample(1, images=12))
    one, other = scored([[first], [second]], draws=50, seed=3)
    rng = np.random.default_rng(3)
    for draw, chosen in enumerate(rng.integers(12, size=(50, 12))):
        assert one.drawn[0, draw] == pytest.approx(plain_miou(first[:, chosen]), abs=1e-12)
        assert other.drawn[0, draw] == pytest.approx(plain_miou(second[:, chosen]), abs=1e-12)
    assert one.miou[0] == pytest.approx(plain_miou(first), abs=1e-12)


def test_all_trials_see_the_same_draws_whatever_stands_beside_them():
    first, second = (each[0] for each in World(0).sample(1))
    alone, beside = scored([[first]], draws=700, seed=1)[0], scored([[second], [first]], draws=700, seed=1)[1]
    assert np.array_equal(alone.drawn, beside.drawn)


def test_a_class_that_a_draw_has_not_is_left_out_of_its_mean():
    counts = np.zeros((3, 2, 2), np.int64)
    counts[:, 0, 0] = 10, 10, 10  # class 0 is in the first image alone, all right
    counts[:, 1, 1] = 5, 10, 5  # class 1 in the second one, half
    (found,) = scored([[counts]], draws=64)
    assert set(np.round(found.drawn[0], 12)) == {0.5, 0.75, 1.0}
    assert np.isnan(miou(np.zeros((3, 2))))


@pytest.mark.parametrize("shapes", [((3, 4, 2), (3, 5, 2)), ((3, 4, 2), (3, 4, 3)), ((3, 1, 2),), ((2, 4, 2),)])
def test_evaluations_of_other_images_or_classes_are_refused(shapes):
    with pytest.raises(ValueError, match="must be one"):
        scored([[np.ones(shape, np.int64)] for shape in shapes])


@pytest.mark.parametrize("shared", [0.0, 0.2], ids=["unrelated images", "images hard for both"])
def test_over_images_nineteen_intervals_of_twenty_hold_the_truth(shared):
    world = World(1, shared=shared)
    truth = plain_miou(world.judged(1, np.arange(4000))) - plain_miou(world.judged(0, np.arange(4000)))
    assert 0.02 < truth < 0.06
    share, _ = coverage(world, seeds=1, sets=2000, truth=truth)
    assert 0.92 <= share <= 0.98


def test_what_images_have_in_common_narrows_a_paired_interval():
    world = World(2, shared=0.2)
    (one,), (other,) = world.sample(1, images=300)
    paired = scored([[one], [other]])
    (interval,) = against(paired[1], [paired[0]])
    apart = scored([[one]], seed=5)[0].drawn[0] - scored([[other]], seed=6)[0].drawn[0]
    low, high = np.quantile(apart, (0.025, 0.975))
    assert interval.high - interval.low < 0.5 * (high - low)


@pytest.mark.parametrize(
    ("seeds", "between", "mixed"),
    [(2, 0.03, 0.05), (3, 0.03, 0.05), (3, 0.0, 0.2), (5, 0.05, 0.0)],
    ids=["two seeds", "three seeds", "three seeds that differ by the image", "five seeds, far apart"],
)
@pytest.mark.parametrize("sets", [400, pytest.param(2000, marks=pytest.mark.slow)])
def test_over_seeds_too_nineteen_intervals_of_twenty_hold_the_truth(seeds, between, mixed, sets):
    world = World(3, seeds=between, mixed=mixed)
    truth = world.true_miou(1) - world.true_miou(0)
    share, _ = coverage(world, seeds=seeds, sets=sets, truth=truth)
    assert 0.92 <= share <= (0.98 if sets == 2000 else 0.99)


def test_drawing_two_or_three_seeds_anew_would_not_do():
    """The plain two-level bootstrap, which is why seeds are counted otherwise."""
    world = World(3, seeds=0.06, mixed=0.05)
    truth = world.true_miou(1) - world.true_miou(0)
    for seeds in (2, 3):
        inside = 0
        for number in range(300):
            one, other = scored(world.sample(seeds), draws=DRAWS, seed=number)
            rng = np.random.default_rng(number)
            draw = np.arange(DRAWS)
            ends = [s.drawn[rng.integers(seeds, size=(seeds, DRAWS)), draw].mean(0) for s in (one, other)]
            low, high = np.quantile(ends[1] - ends[0], (0.025, 0.975))
            inside += low <= truth <= high
        assert inside / 300 < 0.9


def test_images_alone_say_too_much_where_seeds_differ():
    world = World(4, seeds=0.05)
    truth = world.true_miou(1) - world.true_miou(0)
    share, _ = coverage(world, seeds=1, sets=300, truth=truth)
    assert share < 0.9


@pytest.mark.parametrize("seeds", [1, 3])
def test_of_finalists_that_are_alike_one_in_twenty_is_named_at_most(seeds):
    world = World(5, lead=(0.0,) * 4, seeds=0.02 if seeds > 1 else 0.0, mixed=0.05)
    for method in range(4):
        world.recall[method] = world.recall[0]
    named, sets = 0, 500
    for number in range(sets):
        each = sorted(scored(world.sample(seeds), draws=DRAWS, seed=number), key=lambda s: -s.mean)
        named += all(interval.clear for interval in against(each[0], each[1:], seed=number))
    assert named / sets <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / sets)


def test_a_real_lead_is_found():
    world = World(6, lead=(0.0, 0.0, 0.08), seeds=0.01)
    found = 0
    for number in range(50):
        each = scored(world.sample(3), draws=DRAWS, seed=number)
        found += all(interval.clear for interval in against(each[2], each[:2], seed=number))
    assert found >= 45


def test_the_nearest_rival_has_95_percent_and_the_others_more():
    world = World(7, lead=(0.1, 0.08, 0.0, 0.05))
    best, *others = scored(world.sample(1))
    near, far, middle = against(best, others)
    assert [near.level, middle.level, far.level] == [0.95, 1 - 0.05 / 2, 1 - 0.05 / 3]
    assert near.difference == pytest.approx(best.mean - others[0].mean)


def test_two_thousand_draws_of_500_images_take_well_under_a_second():
    rng = np.random.default_rng(8)
    truth = rng.integers(1, 9000, (500, 19))
    sides = [[np.stack([truth - rng.integers(0, truth), truth, truth])] for _ in range(2)]
    scored(sides, draws=10)
    began = time.process_time()
    one, other = scored(sides, draws=2000)
    against(one, [other])
    assert time.process_time() - began < 1


def test_what_seeds_and_images_do_together_is_counted_once():
    """The interval is as wide as the spread of the differences over data sets asks for, by Student's t of 14."""
    world = World(9, own=0.0, mixed=0.2)
    widths, differences = [], []
    for number in range(200):
        one, other = scored(world.sample(8), draws=DRAWS, seed=number)
        (interval,) = against(other, [one], seed=number)
        widths.append(interval.high - interval.low)
        differences.append(interval.difference)
    assert np.mean(widths) == pytest.approx(2 * 2.145 * np.std(differences), rel=0.15)

"""Boundary scores of a set against brute force: distances pixel by pixel, erosions step by step, means by Python."""

import itertools
import math

import cv2
import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from naive.boundary import band, f1
from rayseg.data import scenes
from rayseg.metrics import PAPERS, BoundaryScores, ConfusionMatrix, PerImage, bands, boundary, contours, threshold_name

C, IGNORE = 6, 255
SHAPES = [(23, 31), (1, 17), (17, 1), (40, 12), (20, 20)]


def pair(seed, shape=(23, 31)):
    """Rectangles of a few classes, some ignored; the prediction has them moved, and predicts under what is ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(C)[: rng.integers(2, C)]
    truth = np.full(shape, labels[0], np.uint8)
    pred = truth.copy()
    for _ in range(8):
        y, x, high, wide = (int(v) for v in rng.integers(0, (shape[0], shape[1], 12, 15)))
        dy, dx = (int(v) for v in rng.integers(-2, 3, 2))
        label = rng.choice(labels)
        truth[y : y + high, x : x + wide] = label if rng.random() < 0.8 else IGNORE
        pred[max(0, y + dy) : max(0, y + dy + high), max(0, x + dx) : max(0, x + dx + wide)] = label
    return pred, truth


PAIRS = [pair(seed, SHAPES[seed % len(SHAPES)]) for seed in range(15)]
THRESHOLDS = (1, 2.5, 0.05, 0.2)


def scored(pairs, thresholds=THRESHOLDS):
    scores = BoundaryScores(C, IGNORE, thresholds)
    for pred, truth in pairs:
        scores.update(pred, truth)
    return scores


def regions(pred, truth, label):
    return (pred == label) & (truth != IGNORE), truth == label


def slow_matches(region, other):
    """Give for each boundary pixel of a region the distance to the nearest of the other's, over all pairs."""
    here, there = np.argwhere(boundary(region)), np.argwhere(boundary(other))
    return [min((math.dist(a, b) for b in there), default=math.inf) for a in here]


def slow_f1(pred, truth, label, threshold):
    """Give one image's F-score by distances over all pairs; None where there is no boundary."""
    radius = (
        threshold if threshold >= 1 else math.ceil(threshold * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    )
    found, wanted = regions(pred, truth, label)
    to_wanted, to_found = slow_matches(found, wanted), slow_matches(wanted, found)
    if not to_wanted and not to_found:
        return None
    precision = sum(d <= radius + 1e-9 for d in to_wanted) / max(len(to_wanted), 1)
    recall = sum(d <= radius + 1e-9 for d in to_found) / max(len(to_found), 1)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_sums_over_a_set_are_brute_forces():
    scores = scored(PAIRS)
    assert scores.images == len(PAIRS)
    present_means = np.full((len(THRESHOLDS), C), np.nan)
    for t, label in itertools.product(range(len(THRESHOLDS)), range(C)):
        each = [slow_f1(pred, truth, label, THRESHOLDS[t]) for pred, truth in PAIRS]
        assert scores.present[label] == sum(f is not None for f in each)
        protocol = sum(1.0 if f is None else f for f in each)
        assert scores.sums[t, label] == pytest.approx(protocol, abs=1e-9)
        assert scores.per_class()[t, label] == pytest.approx(protocol / len(PAIRS), abs=1e-9)
        defined = [f for f in each if f is not None]
        present_means[t, label] = sum(defined) / len(defined)
        assert scores.per_class_present()[t, label] == pytest.approx(present_means[t, label], abs=1e-9)
    for t in range(len(THRESHOLDS)):
        assert scores.mean()[t] == pytest.approx(sum(scores.per_class()[t]) / C, abs=1e-9)
        assert scores.mean_present()[t] == pytest.approx(sum(present_means[t]) / C, abs=1e-9)
    assert (scores.present < len(PAIRS)).all(), "every class must be absent somewhere, or the two means are one"


def test_a_class_that_never_occurs_is_one_by_the_protocol_and_undefined_where_present():
    scores = BoundaryScores(3)
    mask = np.zeros((9, 9), int)
    mask[3:6, 3:6] = 1
    scores.update(mask, mask)
    assert scores.per_class()[0].tolist() == [1, 1, 1]
    assert np.isnan(scores.per_class_present()[0]).tolist() == [False, False, True]
    assert np.isnan(scores.iou_per_class()).tolist() == [False, False, True]
    assert (scores.mean_present() == 1).all()
    assert scores.iou() == 1
    assert np.isnan(BoundaryScores(3).mean()).all()
    assert math.isnan(BoundaryScores(3).iou())


@pytest.mark.parametrize("seed", range(3))
def test_any_order_and_any_parts_give_the_same_bits(seed):
    """Ranks take every so-manyth image and add up: the scores must not depend on how many there are."""
    many = [pair(1000 + 50 * seed + i, (14, 18)) for i in range(50)]
    whole = scored(many)
    order = np.random.default_rng(seed).permutation(len(many))
    for parts in (1, 2, 3, 7):
        merged = BoundaryScores(C, IGNORE, THRESHOLDS)
        for part in range(parts):
            merged.merge(scored([many[i] for i in order[part::parts]]))
        for name in ("sums", "present", "hits", "union", "images"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))


def test_other_thresholds_or_classes_do_not_merge():
    for other in (BoundaryScores(C, thresholds_px=(1,)), BoundaryScores(C + 1, thresholds_px=(2,))):
        with pytest.raises(ValueError, match="do not merge"):
            BoundaryScores(C, thresholds_px=(2,)).merge(other)


def test_scoring_changes_nothing_and_threads_may_share_it():
    scores = BoundaryScores(C, IGNORE)
    first = scores.of(*PAIRS[0])
    assert scores.images == 0
    assert not scores.sums.any()
    for one, again in zip(first, scores.of(*PAIRS[0]), strict=True):
        np.testing.assert_array_equal(one, again)


def test_thresholds_are_named_as_in_the_papers():
    assert [threshold_name(t) for t in PAPERS] == ["3px", "5px", "9px", "12px"]
    assert threshold_name(7) == "7px"


# ------------------------------------------------------------------------------------------ contours, distances


def street():
    """A drawn scene and its copy moved by two pixels."""
    _, truth = scenes.draw(0, 3, height=96, width=128)
    truth = np.where(truth == 11, IGNORE, truth)
    return np.roll(np.where(truth == IGNORE, 0, truth), (2, 1), (0, 1)), truth


@pytest.mark.parametrize(("pred", "truth"), [*PAIRS[:5], street()])
def test_contours_of_all_classes_are_the_boundaries_of_each(pred, truth):
    for mask in (pred, truth):
        found = contours.Contours(mask)
        for label in range(12):
            np.testing.assert_array_equal(found.of(label), np.flatnonzero(boundary(mask == label)))


def test_f1_of_a_street_is_that_of_whole_distance_transforms():
    pred, truth = street()
    thresholds = [*PAPERS, 1, 4.5, 30, 300, 5000]
    found = contours.boundary_f1(pred, truth, num_classes=11, threshold=thresholds)
    np.testing.assert_array_equal(found, f1(pred, truth, num_classes=11, thresholds=thresholds))
    assert 0.1 < found[0].mean() < found[-1].mean()


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (1, 400), (400, 1)])
@pytest.mark.parametrize("reach", [0, 1, 3, 12, 254, 255, 700])
def test_distances_are_exact_up_to_the_reach_and_beyond_it_elsewhere(shape, reach):
    rng = np.random.default_rng(reach)
    asking, among = (np.sort(rng.choice(shape[0] * shape[1], n, replace=False)) for n in (60, 4))
    ys, xs = np.divmod(asking, shape[1])
    v, u = np.divmod(among, shape[1])
    exact = ((ys[:, None] - v) ** 2 + (xs[:, None] - u) ** 2).min(1)
    found = contours.nearest(asking, among, shape, reach)
    near = exact <= reach * reach
    np.testing.assert_array_equal(found[near], exact[near])
    assert (found[~near] > reach * reach).all()


# ------------------------------------------------------------------------------------------ boundary IoU


def slow_overlap(pred, truth, label):
    """Erode each region step by step, nothing beyond the image being of any class."""
    width = max(1, round(0.02 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
    one, other = (band(region, width) for region in regions(pred, truth, label))
    return int((one & other).sum()), int((one | other).sum())


@pytest.mark.parametrize(("pred", "truth"), [*PAIRS, street(), pair(99, (90, 120))])
def test_bands_are_those_of_erosions(pred, truth):
    scores = BoundaryScores(11, IGNORE)
    scores.update(pred, truth)
    for label in range(11):
        assert (scores.hits[label], scores.union[label]) == slow_overlap(pred, truth, label)


def test_boundary_iou_of_a_set_is_the_ratio_of_its_sums():
    scores = scored(PAIRS)
    hits, union = (sum(np.array([slow_overlap(*p, c)[i] for c in range(C)]) for p in PAIRS) for i in (0, 1))
    np.testing.assert_allclose(scores.iou_per_class(), hits / union, rtol=0, atol=1e-12)
    assert scores.iou() == pytest.approx((hits / union).mean(), abs=1e-12)


@pytest.mark.parametrize(("shape", "width"), [((360, 480), 12), ((1024, 2048), 46), ((10, 12), 1), ((480, 640), 16)])
def test_the_band_is_two_percent_of_the_diagonal_wide(shape, width):
    assert bands.band_px(shape) == width
    only = np.zeros(shape, np.uint8)
    scores = BoundaryScores(1)
    scores.update(only, only)
    inside = (shape[0] - 2 * width) * (shape[1] - 2 * width)
    assert scores.hits.tolist() == scores.union.tolist() == [shape[0] * shape[1] - inside], "the image's border counts"


def test_a_class_has_a_band_along_ignored_pixels_in_both_masks():
    truth = np.zeros((100, 100), np.uint8)  # a diagonal of 141 px: bands of 3
    truth[:, 50:] = IGNORE
    pred = np.full_like(truth, 1)
    pred[:, :60] = 0  # beyond the edge, where nothing counts
    scores = BoundaryScores(2)
    scores.update(pred, truth)
    assert scores.hits.tolist() == scores.union.tolist() == [100 * 50 - 94 * 44, 0]


# ------------------------------------------------------------------------------------------ pixels of each image


def test_pixels_of_each_image_add_up_to_the_sets():
    confusion, images = ConfusionMatrix(C, IGNORE), PerImage.empty(len(PAIRS), C)
    for i, (pred, truth) in enumerate(PAIRS):
        images.note(i, confusion.update(pred, truth))
    np.testing.assert_array_equal(images.hits.sum(0), np.diag(confusion.counts))
    np.testing.assert_array_equal(images.truth.sum(0), confusion.counts.sum(1))
    np.testing.assert_array_equal(images.found.sum(0), confusion.counts.sum(0))
    for row, (pred, truth) in zip(images.iou(), PAIRS, strict=True):
        kept = truth != IGNORE
        expected = jaccard_score(truth[kept], pred[kept], labels=range(C), average=None, zero_division=0)
        expected[~np.isin(range(C), [truth[kept], pred[kept]])] = np.nan
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)


def test_rows_of_two_ranks_add_up():
    parts = [PerImage.empty(len(PAIRS), C) for _ in range(2)]
    whole = PerImage.empty(len(PAIRS), C)
    for i, (pred, truth) in enumerate(PAIRS):
        counts = ConfusionMatrix(C, IGNORE).update(pred, truth)
        parts[i % 2].note(i, counts)
        whole.note(i, counts)
    for one, other, both in zip(*parts, whole, strict=True):
        assert both.dtype == np.int32
        np.testing.assert_array_equal(one + other, both)


def test_opencv_takes_masks_of_many_classes():
    """From 255 classes on, labels and the mark of what does not count need 16 bits."""
    truth = np.arange(300 * 4).reshape(30, 40) % 300
    scores = BoundaryScores(300, ignore_index=65535)
    scores.update(truth, truth)
    assert (scores.hits == scores.union).all()
    assert scores.union.sum() == truth.size
    assert cv2.erode(truth.astype(np.uint16), np.ones((3, 3), np.uint8)).dtype == np.uint16

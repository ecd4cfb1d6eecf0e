"""Metrics against scikit-learn, and against a boundary matcher that follows the protocol's text pixel by pixel."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score

from rayseg.data import scenes
from rayseg.errors import DataError
from rayseg.metrics import ConfusionMatrix, boundary_f1, radius_px

C, IGNORE = 5, 255


def masks(seed, shape=(3, 24, 31), absent=()):
    """Random truth with ignored pixels, and a prediction that is right about half the time."""
    rng = np.random.default_rng(seed)
    labels = np.array([c for c in range(C) if c not in absent], np.uint8)
    truth = rng.choice(labels, shape)
    pred = np.where(rng.random(shape) < 0.5, truth, rng.choice(labels, shape)).astype(np.uint8)
    truth[rng.random(shape) < 0.1] = IGNORE
    return pred, truth


def counted(*pairs):
    confusion = ConfusionMatrix(C, IGNORE)
    for pred, truth in pairs:
        confusion.update(pred, truth)
    return confusion


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    pred, truth = masks(seed)
    confusion = counted((pred, truth))
    kept = truth != IGNORE
    y, x = truth[kept], pred[kept]
    np.testing.assert_array_equal(confusion.counts, confusion_matrix(y, x, labels=range(C)))
    np.testing.assert_allclose(confusion.iou(), jaccard_score(y, x, labels=range(C), average=None), rtol=1e-12)
    assert confusion.miou() == pytest.approx(jaccard_score(y, x, average="macro"), rel=1e-12)
    assert confusion.frequency_weighted_iou() == pytest.approx(jaccard_score(y, x, average="weighted"), rel=1e-12)
    assert confusion.pixel_accuracy() == pytest.approx(accuracy_score(y, x), rel=1e-12)
    assert confusion.mean_accuracy() == pytest.approx(balanced_accuracy_score(y, x), rel=1e-12)


def test_merge_is_counting_both():
    first, second = masks(1), masks(2)
    merged = counted(first)
    merged.merge(counted(second))
    np.testing.assert_array_equal(merged.counts, counted(first, second).counts)
    both = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
    np.testing.assert_array_equal(merged.counts, counted(both).counts)
    assert merged.counts.dtype == np.int64


def test_other_numbers_of_classes_do_not_merge():
    with pytest.raises(ValueError, match="do not merge"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))


def test_ignored_pixels_never_count():
    pred, truth = masks(3)
    ignored = truth == IGNORE
    changed = np.where(ignored, 200, pred).astype(np.uint8)
    np.testing.assert_array_equal(counted((changed, truth)).counts, counted((pred, truth)).counts)
    assert counted((pred, truth)).counts.sum() == (~ignored).sum()


def test_a_class_that_never_occurs_is_left_out_and_a_wrongly_predicted_one_is_not():
    pred, truth = masks(4, absent=(2,))
    confusion = counted((pred, truth))
    assert np.isnan(confusion.iou()).tolist() == [False, False, True, False, False]
    assert confusion.miou() == pytest.approx(np.delete(confusion.iou(), 2).mean())
    pred[0, 0, 0], truth[0, 0, 0] = 2, 0
    confusion = counted((pred, truth))
    assert confusion.iou()[2] == 0
    assert confusion.miou() == pytest.approx(confusion.iou().mean())
    assert np.isnan(confusion.recall()[2])


def test_before_the_first_pixel_all_is_nan():
    for confusion in (ConfusionMatrix(C), counted((np.zeros((4, 4), int), np.full((4, 4), IGNORE)))):
        assert math.isnan(confusion.miou())
        assert math.isnan(confusion.pixel_accuracy())
        assert math.isnan(confusion.mean_accuracy())
        assert math.isnan(confusion.frequency_weighted_iou())


def test_takes_torch_tensors():
    pred, truth = masks(5)
    tensors = torch.from_numpy(pred).long(), torch.from_numpy(truth).long()
    np.testing.assert_array_equal(counted(tensors).counts, counted((pred, truth)).counts)


@pytest.mark.parametrize("measure", [counted, lambda pair: boundary_f1(*pair, num_classes=C, threshold=2)])
def test_what_is_no_label_is_refused(measure):
    pred, truth = np.zeros((4, 4), int), np.zeros((4, 4), int)
    with pytest.raises(ValueError, match=r"predictions \[5\] are not classes 0\.\.4"):
        measure((np.where(np.eye(4), 5, pred), truth))
    with pytest.raises(ValueError, match=r"predictions \[-1\]"):
        measure((pred - 1, truth))
    with pytest.raises(DataError, match=r"labels \[7, 9\] in the target .*0\.\.4 and 255"):
        measure((pred, np.arange(16).reshape(4, 4) % 2 * 2 + 7))
    with pytest.raises(ValueError, match=r"differ in shape|must both be"):
        measure((pred, truth[:2]))
    with pytest.raises(ValueError, match="whole numbers"):
        measure((pred.astype(float), truth))


# ------------------------------------------------------------------------------------------ boundary F-score


def slow_boundary(region):
    """One pixel wide: it differs from its right, lower or lower-right neighbour; the last row looks right only."""
    height, width = region.shape
    found = set()
    for y, x in itertools.product(range(height), range(width)):
        if y == height - 1 and x == width - 1:
            continue
        neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
        if y == height - 1:
            neighbours = [(y, x + 1)]
        elif x == width - 1:
            neighbours = [(y + 1, x)]
        if any(region[y, x] != region[n] for n in neighbours):
            found.add((y, x))
    return found


def slow_f1(pred, truth, label, radius):
    ignored = truth == IGNORE
    found = slow_boundary(np.where(ignored, False, pred == label))
    wanted = slow_boundary(np.where(ignored, False, truth == label))
    if not found and not wanted:
        return 1.0
    if not found or not wanted:
        return 0.0

    def matched(these, those):
        near = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in those) for y, x in these]
        return sum(near) / len(these)

    precision, recall = matched(found, wanted), matched(wanted, found)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blobs(seed, shape):
    """A mask of a few rectangles with ignored ones, and a prediction with the edges moved."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape, np.uint8)
    pred = truth.copy()
    for _ in range(7):
        y, x, high, wide = (int(v) for v in rng.integers(0, (shape[0], shape[1], 9, 12)))
        dy, dx, label = (int(v) for v in rng.integers((-2, -2, 0), (3, 3, C)))
        truth[y : y + high, x : x + wide] = label if rng.random() < 0.8 else IGNORE
        pred[max(0, y + dy) : max(0, y + dy + high), max(0, x + dx) : max(0, x + dx + wide)] = label
    return pred, truth


@pytest.mark.parametrize(("seed", "shape"), [(0, (18, 25)), (1, (25, 18)), (2, (9, 40)), (3, (20, 20)), (4, (1, 12))])
def test_boundary_f1_is_the_protocols(seed, shape):
    pred, truth = blobs(seed, shape)
    thresholds = [1, 1.5, 2, 3, 5, 0.05, 0.2]
    scores = boundary_f1(pred, truth, num_classes=C, threshold=thresholds)
    assert scores.shape == (len(thresholds), C)
    for row, threshold in zip(scores, thresholds, strict=True):
        radius = threshold if threshold >= 1 else math.ceil(threshold * math.sqrt(shape[0] ** 2 + shape[1] ** 2))
        np.testing.assert_array_equal(row, [slow_f1(pred, truth, label, radius) for label in range(C)])
        np.testing.assert_array_equal(row, boundary_f1(pred, truth, num_classes=C, threshold=threshold))


def test_boundary_f1_of_a_street_is_the_protocols():
    """A crop of a drawn scene, shifted, at the sizes of a real boundary."""
    _, truth = scenes.draw(0, 3, height=72, width=96)
    truth = np.where(truth == 11, IGNORE, truth)[24:60, 30:80]
    pred = np.roll(np.where(truth == IGNORE, 0, truth), (1, 2), (0, 1))
    scores = boundary_f1(pred, truth, num_classes=11, threshold=2)
    np.testing.assert_array_equal(scores, [slow_f1(pred, truth, label, 2) for label in range(11)])
    assert (scores < 1).any()


def test_both_absent_is_one_and_one_absent_is_zero():
    truth = np.zeros((12, 12), int)
    truth[4:8, 4:8] = 1
    pred = np.zeros((12, 12), int)
    pred[4:8, 4:8] = 2
    scores = boundary_f1(pred, truth, num_classes=4, threshold=1)
    assert scores.tolist() == [1, 0, 0, 1]
    whole = boundary_f1(np.zeros((5, 5), int), np.zeros((5, 5), int), num_classes=1, threshold=1)
    assert whole.tolist() == [1], "a class that fills the image has no boundary"


def test_the_radius_decides():
    truth, pred = np.zeros((20, 20), int), np.zeros((20, 20), int)
    truth[:, 10:], pred[:, 13:] = 1, 1
    assert boundary_f1(pred, truth, num_classes=2, threshold=2).tolist() == [0, 0]
    assert boundary_f1(pred, truth, num_classes=2, threshold=3).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("threshold", "shape", "pixels"),
    [
        (0.0005, (1024, 2048), 2),
        (0.00088, (1024, 2048), 3),
        (0.001875, (1024, 2048), 5),
        (0.00375, (1024, 2048), 9),
        (0.005, (1024, 2048), 12),
        (0.0005, (360, 480), 1),
        (0.00088, (360, 480), 1),
        (0.001875, (360, 480), 2),
        (0.00375, (360, 480), 3),
        (0.005, (360, 480), 3),
        (1, (360, 480), 1),
        (7, (360, 480), 7),
    ],
)
def test_radii_are_the_papers(threshold, shape, pixels):
    assert radius_px(threshold, shape) == pixels


@pytest.mark.parametrize("threshold", [0, -1, math.nan])
def test_a_threshold_must_be_positive(threshold):
    with pytest.raises(ValueError, match="threshold"):
        boundary_f1(np.zeros((4, 4), int), np.zeros((4, 4), int), num_classes=2, threshold=threshold)

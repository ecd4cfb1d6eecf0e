"""Running moments by class against numpy over all pixels at once; precision against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from rayseg.analysis.dfn import average_precision
from rayseg.analysis.moments import ClassMoments

CLASSES, CHANNELS = 4, 3


def pixels(offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """500 pixels; class 2 never occurs, label 4 and 255 are none."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 3, 4, 255], 500, p=[0.5, 0.3, 0.02, 0.1, 0.08])
    return offset + rng.normal(size=(500, CHANNELS)) + 0.3 * (labels[:, None] % 7) * np.arange(CHANNELS), labels


def at_once(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equation 8, and one minus the variance within classes over that of all pixels."""
    means = np.stack([x[labels == c].mean(0) for c in range(CLASSES) if (labels == c).any()])
    known = labels < CLASSES
    within = sum(((x[labels == c] - x[labels == c].mean(0)) ** 2).sum(0) for c in (0, 1, 3))
    whole = ((x[known] - x[known].mean(0)) ** 2).sum(0)
    return ((means - means.mean(0)) ** 2).sum(0) / len(means), 1 - within / whole


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("parts", [1, 3, 500])
def test_batches_equal_all_pixels_at_once(offset: float, parts: int) -> None:
    x, labels = pixels(offset)
    moments = ClassMoments(CLASSES, CHANNELS)
    for some in np.array_split(np.arange(len(x)), parts):
        moments.update(x[some], labels[some])
    variance, share = at_once(x, labels)
    np.testing.assert_allclose(moments.variance(), variance, rtol=1e-9 if offset == 0 else 1e-6)
    np.testing.assert_allclose(moments.share(), share, rtol=1e-6, atol=1e-9)
    assert moments.pixels.tolist() == [(labels == c).sum() for c in range(CLASSES)]
    assert moments.occurring.tolist() == [True, True, False, True]


def test_forms_merge_in_any_order() -> None:
    x, labels = pixels(50.0)
    forms = []
    for some in np.array_split(np.arange(len(x)), 4):
        form = ClassMoments(CLASSES, CHANNELS)
        form.update(x[some], labels[some])
        forms.append(form)
    whole = ClassMoments(CLASSES, CHANNELS)
    for form in (forms[2], forms[0], ClassMoments(CLASSES, CHANNELS), forms[3], forms[1]):
        whole.merge(form)
    for ours, numpys in zip((whole.variance(), whole.share()), at_once(x, labels), strict=True):
        np.testing.assert_allclose(ours, numpys, rtol=1e-9)


def test_a_scale_changes_the_variance_and_not_the_share() -> None:
    x, labels = pixels(0.0)
    plain, scaled = ClassMoments(CLASSES, CHANNELS), ClassMoments(CLASSES, CHANNELS)
    plain.update(x, labels)
    scaled.update(10 * x, labels)
    np.testing.assert_allclose(scaled.variance(), 100 * plain.variance())
    np.testing.assert_allclose(scaled.share(), plain.share())


def test_a_channel_that_never_varies_has_no_share() -> None:
    moments = ClassMoments(2, 1)
    moments.update(np.full((6, 1), 0.1), np.array([0, 1, 0, 1, 0, 1]))
    assert (moments.variance(), moments.share()) == (0, 0)


def test_average_precision_equals_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.2
    scores = np.round(rng.random(400) + 0.3 * positive, 1).astype(np.float32)  # many scores are equal
    assert average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
    assert np.isnan(average_precision(scores, np.zeros(400, bool)))

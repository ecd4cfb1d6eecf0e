"""Is one trial better than another by more than chance? Intervals of mIoU differences, over images and over seeds.

An evaluation is its counts of each image and class. The images are drawn anew with replacement, the same ones for all
trials, the counts summed, and each sum's mIoU taken: what all trials find hard cancels in their difference. The
interval has the percentiles of these differences, moved apart as Student's t has it of so few images. (The corrections
of BCa cover less: .88 to .95 at 20 to 500 images, where these percentiles have .92 to .95.) Frames that follow each
other in a video are not independent: an interval over them is too narrow.

Where trials have several seeds their mean mIoU is compared, over all seeds and images. To draw two or three seeds anew
as well would show half or two thirds of their variance, and nothing of how little is known of it. So what seeds and
images do together is taken out of the draws of images, and an error of Student's t is added, with the variance between
seeds, pooled over the two trials that are compared: it has that part once, and the freedom of so few seeds. (In worlds
of 2 to 5 seeds, near and far apart, this covers .95 to .98 where drawing seeds anew covers .68 to .99.) With one seed
each nothing is known of seeds, and the interval is one over images alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
ERRORS = 8
"""So many errors of seeds are drawn for each draw of images: the tails of Student's t need more draws."""
ENOUGH = 20
"""With fewer images nothing should be decided: of five that are alike for both, one in 16 times all favour the same."""
ALPHA = 0.05
_CHUNK = 256

Counts = NDArray[np.integer]
"""(3,N,C): pixels hit, pixels in truth and pixels found, of each image and class."""
Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """A trial: the mIoU of each seed's evaluation over all `images` (S,), and over each draw of them (S,B)."""

    miou: Floats
    drawn: Floats
    images: int

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(self.miou.mean())

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None of one seed."""
        return float(self.miou.std(ddof=1)) if len(self.miou) > 1 else None


class Interval(NamedTuple):
    """A difference of mIoU, and where it lies with probability `level`."""

    difference: float
    low: float
    high: float
    level: float

    @property
    def clear(self) -> bool:
        """Whether it excludes 0, in favour of the first."""
        return self.low > 0


def miou(sums: Floats) -> Floats:
    """Give the mean IoU (...) of summed counts (...,3,C), over the classes that occur in truth or prediction.

    NaN where no class occurs. A class that a draw of images has not is left out of that draw's mean.
    """
    hits, truth, found = (sums[..., i, :] for i in range(3))
    union = truth + found - hits
    occurs = union > 0
    iou = np.divide(hits, union, out=np.zeros(union.shape), where=occurs)
    with np.errstate(invalid="ignore"):
        return np.asarray(iou.sum(-1) / occurs.sum(-1), np.float64)


def scored(trials: Sequence[Sequence[Counts]], *, draws: int = DRAWS, seed: int = 0) -> list[Scored]:
    """Score trials, each the counts of its seeds' evaluations, on the same `draws` of the same images.

    Raises:
        ValueError: evaluations of different images or classes, or of fewer than two images.
    """
    runs = [counts for trial in trials for counts in trial]
    shapes = {counts.shape for counts in runs}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 3 or shape[0] != 3 or shape[1] < 2:
        raise ValueError(
            f"counts of {[counts.shape for counts in runs]}: all must be one (3,N,C), of two images or more"
        )
    _, images, classes = shape
    # Whole numbers below 2**53: their sums are exact, whatever the order.
    flat = [np.moveaxis(counts, 1, 0).reshape(images, 3 * classes).astype(np.float64) for counts in runs]
    drawn = np.empty((len(runs), draws))
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _CHUNK):
        part = slice(start, min(start + _CHUNK, draws))
        weights = _weights(rng, part.stop - part.start, images)
        for run, counts in enumerate(flat):
            drawn[run, part] = miou((weights @ counts).reshape(-1, 3, classes))
    whole = np.array([miou(counts.sum(0).reshape(3, classes)) for counts in flat])
    ends = np.cumsum([0, *(len(trial) for trial in trials)])
    return [Scored(whole[a:b], drawn[a:b], images) for a, b in pairwise(ends)]


def _weights(rng: np.random.Generator, draws: int, images: int) -> Floats:
    """Say how often each draw has each image (draws,N)."""
    chosen = rng.integers(images, size=(draws, images)) + images * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * images).reshape(draws, images).astype(np.float64)


def against(best: Scored, others: Sequence[Scored], *, alpha: float = ALPHA, seed: int = 1) -> list[Interval]:
    """Compare a trial with each of the others, by the percentiles of what its lead may be.

    Holm's step-down: the rival that is nearest, by its difference in standard deviations, has an interval of 1 - alpha,
    the next one of 1 - alpha / 2, and so on. So all exclude 0 with probability alpha at most where none is better.
    """
    rng = np.random.default_rng(seed)
    leads = [_lead(best, other, rng) for other in others]
    differences = [best.mean - other.mean for other in others]
    nearness = [d / max(float(np.nanstd(lead)), 1e-12) for d, lead in zip(differences, leads, strict=True)]
    found: dict[int, Interval] = {}
    for rank, i in enumerate(sorted(range(len(others)), key=lambda i: nearness[i]), start=1):
        tail = alpha / rank / 2
        low, high = np.nanquantile(leads[i], (tail, 1 - tail))
        found[i] = Interval(differences[i], float(low), float(high), 1 - alpha / rank)
    return [found[i] for i in range(len(others))]


def _lead(one: Scored, other: Scored, rng: np.random.Generator) -> Floats:
    """Draw what the difference of the means may be (B,), or with several seeds (B * ERRORS,)."""
    centre = one.mean - other.mean
    apart = _apart(one.images) * (one.drawn.mean(0) - other.drawn.mean(0) - centre)
    free = len(one.miou) + len(other.miou) - 2
    if not free:
        return np.asarray(centre + apart, np.float64)
    each = (1 / len(one.miou) + 1 / len(other.miou)) / free
    between = each * sum(float(((s.miou - s.mean) ** 2).sum()) for s in (one, other))
    mixed = each * sum(float(np.nanvar(s.drawn - s.drawn.mean(0), axis=1).sum()) for s in (one, other))
    all_of_it = float(np.nanvar(one.drawn.mean(0) - other.drawn.mean(0)))
    left = np.sqrt(max(all_of_it - mixed, 0.0) / all_of_it) if all_of_it > 0 else 0.0
    errors = np.sqrt(between) * rng.standard_t(free, (ERRORS, len(apart)))
    return np.asarray((centre + left * apart + errors).ravel(), np.float64)


def _apart(images: int) -> float:
    """Give by how much percentiles over so few images lie too near: the missing freedom, and Student's t at 95 %."""
    return math.sqrt(images / (images - 1)) * (1 + (1.96**2 + 1) / 4 / (images - 1))

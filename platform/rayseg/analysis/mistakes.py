"""Error maps, of any head (GALD's Figure 10): the pixels that a run gets wrong, and that a second one gets right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayseg.analysis.subject import Arrays, Asked, Result, Subject
from rayseg.data.reader import Sample
from rayseg.train import evaluate

NAMED = 3
"""So many confusions are named."""


def error_map(asked: Asked) -> Result:
    """Predict the whole image with each run's own test settings, and compare with its labels."""
    subject, against, (sample,) = asked.subject, asked.against, asked.samples
    counted = sample.mask != subject.shards.ignore_index
    found = predict(subject, sample)
    wrong = (found != sample.mask) & counted
    arrays: Arrays = {"image": sample.image, "truth": sample.mask, "prediction": found}
    arrays |= {"wrong": wrong, "counted": counted}
    total = max(int(counted.sum()), 1)
    numbers = {"wrong": f"{wrong.sum() / total:.2%} of {counted.sum()} labelled pixels"}
    numbers |= _confusions(sample.mask[wrong], found[wrong], subject)
    if against is not None:
        other = predict(against, sample)
        theirs = (other != sample.mask) & counted
        arrays |= {"against_prediction": other, "against_wrong": theirs}
        numbers[f"wrong with {against.name}"] = f"{theirs.sum() / total:.2%}"
        numbers[f"wrong with {subject.name} alone"] = f"{(wrong & ~theirs).sum() / total:.2%}"
        numbers[f"wrong with {against.name} alone"] = f"{(theirs & ~wrong).sum() / total:.2%}"
    return Result(arrays, numbers)


def predict(subject: Subject, sample: Sample) -> NDArray[np.uint8]:
    """Predict a sample's labels as `rayseg predict` does."""
    model, config = subject.trained.model, subject.trained.config
    return evaluate.predict(
        model, sample.image, subject.trained.runtime.device, subject.trained.precision, config.test
    ).astype(np.uint8)


def _confusions(truth: NDArray[np.uint8], found: NDArray[np.uint8], subject: Subject) -> dict[str, str]:
    """Name the pairs of classes that most of the wrong pixels are."""
    names = subject.shards.class_names
    pairs, counts = np.unique(np.stack([truth, found], 1), axis=0, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:NAMED]
    return {
        f"{names[pairs[i][0]]} taken for {names[pairs[i][1]]}": f"{counts[i] / len(truth):.0%} of the wrong pixels"
        for i in most
    }

"""A run's best commit, or any one commit, at work: evaluate a split, predict images of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from rayseg import config as configs
from rayseg import figures, segmenter
from rayseg.config import RunConfig, ViewConfig
from rayseg.data import images as decoding
from rayseg.data.reader import ShardSet, open_shards
from rayseg.errors import CheckpointError, DataError, TrainingError
from rayseg.schema import parse, to_dict
from rayseg.segmenter import Segmenter
from rayseg.train import commit, evaluate
from rayseg.train.commit import Commit
from rayseg.train.evaluate import Evaluation
from rayseg.train.review import best_commit
from rayseg.train.runtime import LocalRuntime
from rayseg.train.step import choose_precision

Progress = Callable[[int, int], None]


class Trained(NamedTuple):
    """A run's config and its model with the weights of a commit, in evaluation mode."""

    config: RunConfig
    model: Segmenter
    runtime: LocalRuntime
    precision: torch.dtype


class Subject(NamedTuple):
    """A commit at work on a split. The config's test settings are those that it is to be seen with."""

    commit: Commit
    config: RunConfig
    trained: Trained
    split: str
    shards: ShardSet


def find(place: Path) -> Commit:
    """Find the best commit of a run, or read the one commit that `place` is.

    Raises:
        CheckpointError: nothing is there, no evaluation yet, or no commit is whole.
    """
    if not place.exists():
        raise CheckpointError("no such run or commit", place, "name a run's directory, or one of its commits")
    whole = place.absolute()
    if whole.parent.name == "commits" or (whole / commit.MANIFEST).exists():
        return commit.read(whole)
    return best_commit(whole)


def config_of(found: Commit) -> RunConfig:
    """Give the config of the run that a commit is of."""
    return configs.from_dict(found.state["config"], found.path)


def load(place: Path, num_classes: int) -> Trained:
    """Load a run's best commit, or a commit.

    Raises:
        CheckpointError: neither a run nor a commit, no evaluation yet, or other classes.
    """
    return load_commit(find(place), num_classes)


def load_commit(found: Commit, num_classes: int) -> Trained:
    """Load a commit's model, to predict so many classes; raises as `load` does."""
    config = config_of(found)
    plain = config.backbone.model_copy(update={"pretrained": False, "weights": None})
    model = segmenter.build(config.model(num_classes).model_copy(update={"backbone": plain}))
    commit.load_model(found, model)
    model.load_state_dict(commit.best_weights(found))
    runtime = LocalRuntime(found.path.parents[1])
    precision = choose_precision(config.train.precision, runtime.device)
    return Trained(config, model.to(runtime.device).eval(), runtime, precision)


def subject(place: Path, shards: str | Path | None, split: str | None, *, views: ViewConfig | None = None) -> Subject:
    """Load a run's best commit, or a commit, to see a whole split with the run's own views, or others.

    Raises:
        CheckpointError: as `load`; or the shards have other classes than the commit was trained on.
        DataError: no such shards or split.
    """
    found = find(place)
    config = config_of(found)
    chosen = split or config.data.val_split
    on = open_shards(shards or config.data.shards, chosen, config.data.remote)
    _refuse_other_classes(found, on)
    data = config.data.model_copy(update={"val_samples": None})
    judged = config.train.model_copy(update={"shown_images": 0, "boundary_scores": True})
    whole = config.model_copy(update={"data": data, "train": judged, "test": views or config.test})
    return Subject(found, whole, load_commit(found, on.num_classes), chosen, on)


def judge(subject: Subject, *, progress: Progress | None = None) -> Evaluation:
    """Evaluate.

    Raises:
        CheckpointError: the weights give logits that are not finite.
        DataError: the split is empty, or has no labelled pixel.
    """
    _, model, runtime, precision = subject.trained
    with weights_blamed(subject.commit):
        return evaluate.evaluate(
            model, subject.shards, runtime, config=subject.config, precision=precision, progress=progress
        )


def evaluate_run(
    place: Path,
    shards: str | Path | None,
    split: str | None,
    *,
    views: ViewConfig | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Evaluate a run's best commit, or a commit, on a whole split: `Evaluation.metrics`; see `subject` and `judge`."""
    seen = subject(place, shards, split, views=views)
    return judge(seen, progress=progress).metrics(seen.shards.class_names)


def chosen_views(place: Path, overrides: Mapping[str, Any]) -> ViewConfig:
    """Give a run's test settings with some of them replaced; without windows their stride goes too.

    Raises:
        UsageError: they do not hold.
    """
    plain = to_dict(config_of(find(place)).test) | dict(overrides)
    if plain["window_px"] is None and "stride" not in overrides:
        del plain["stride"]
    return parse(ViewConfig, plain, "test")


def predict_images(place: Path, images: Sequence[Path], out: Path) -> Iterator[Path]:
    """Write `NAME.mask.png` (label values) and `NAME.overlay.png` for each image; every image is checked first.

    The run's own test settings are used.

    Raises:
        DataError: an image cannot be read, or two have one name.
        CheckpointError: as `load`; or the weights give logits that are not finite.
    """
    names = [path.stem for path in images]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two images are called {sorted(twice)[0]}", out, "predict them into two folders")
    pixels = [_read(path) for path in images]
    found = find(place)
    data = config_of(found).data
    shards = open_shards(data.shards, data.val_split, data.remote)
    config, model, runtime, precision = load_commit(found, shards.num_classes)
    for name, image in zip(names, pixels, strict=True):
        with weights_blamed(found), evaluate.explained(name, found.path):
            mask = evaluate.predict(model, image, runtime.device, precision, config.test)
        out.mkdir(parents=True, exist_ok=True)
        rgb = figures.mask_to_rgb(mask, [c.color for c in shards.card.classes], shards.ignore_index)
        yield _write(out / f"{name}.mask.png", mask)
        yield _write(
            out / f"{name}.overlay.png", cv2.cvtColor(cv2.addWeighted(image, 0.5, rgb, 0.5, 0), cv2.COLOR_RGB2BGR)
        )


@contextmanager
def weights_blamed(found: Commit) -> Iterator[None]:
    """Say of logits that are not finite whose they are: nothing trains here.

    Raises:
        CheckpointError: they are this commit's.
    """
    try:
        yield
    except TrainingError as error:
        raise CheckpointError(error.what, found.path, "use another commit of the run, or train it anew") from None


def _refuse_other_classes(found: Commit, on: ShardSet) -> None:
    """Compare the shards' classes with those that the commit was evaluated on, or another commit of its run."""
    places = [path / commit.EVALUATION for path in (found.path, *commit.commits(found.path.parents[1]))]
    if (place := next((path for path in places if path.exists()), None)) is None:
        return
    kept = evaluate.from_bytes(place)
    there, here = kept.classes, on.class_names
    fix = "give the shards of the data set that it was trained on"
    if (number := len(kept.confusion.counts)) != len(here):
        raise CheckpointError(f"it tells {number} classes, and the shards have {len(here)}", found.path, fix)
    if there and (other := next(((a, b) for a, b in zip(there, here, strict=True) if a != b), None)):
        what = f"its classes are others than the shards': '{other[0]}' where they have '{other[1]}'"
        raise CheckpointError(what, found.path, fix)


def _read(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the image: {error.strerror}", path, "name a PNG or JPEG file") from None
    decoding.check_image(data, path)
    return decoding.decode_image(data, path)


def _write(path: Path, pixels: np.ndarray) -> Path:
    if not cv2.imwrite(str(path), pixels):
        raise CheckpointError("cannot write", path, "choose a folder with room that you may write to")
    return path

"""A run's best commit at work: evaluate a split, predict images of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from rayseg.errors import CheckpointError, DataError
from rayseg.schema import parse, to_dict
from rayseg.segmenter import Segmenter
from rayseg.train import commit, evaluate
from rayseg.train.review import best_commit
from rayseg.train.runtime import LocalRuntime
from rayseg.train.step import choose_precision


class Trained(NamedTuple):
    """A run's config and its model with the best weights, in evaluation mode."""

    config: RunConfig
    model: Segmenter
    runtime: LocalRuntime
    precision: torch.dtype


def load(run_dir: Path, num_classes: int) -> Trained:
    """Load a run's best commit.

    Raises:
        CheckpointError: not a run, no evaluation yet, or other classes.
    """
    found = best_commit(run_dir)
    config = configs.from_dict(found.state["config"], found.path)
    plain = config.backbone.model_copy(update={"pretrained": False, "weights": None})
    model = segmenter.build(config.model(num_classes).model_copy(update={"backbone": plain}))
    commit.load_model(found, model)
    model.load_state_dict(commit.best_weights(found))
    runtime = LocalRuntime(run_dir)
    precision = choose_precision(config.train.precision, runtime.device)
    return Trained(config, model.to(runtime.device).eval(), runtime, precision)


def evaluate_run(
    run_dir: Path,
    shards: str | Path | None,
    split: str | None,
    *,
    views: ViewConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Evaluate a run's best commit on a whole split with the run's own views, or others; see `Evaluation.metrics`."""
    config = _config(run_dir)
    on = open_shards(shards or config.data.shards, split or config.data.val_split, config.data.remote)
    trained = load(run_dir, on.num_classes)
    data = config.data.model_copy(update={"val_samples": None})
    whole = config.model_copy(update={"data": data, "test": views or config.test})
    result = evaluate.evaluate(
        trained.model, on, trained.runtime, config=whole, precision=trained.precision, progress=progress
    )
    return result.metrics(on.class_names)


def chosen_views(run_dir: Path, overrides: Mapping[str, Any]) -> ViewConfig:
    """Give a run's test settings with some of them replaced; without windows their stride goes too.

    Raises:
        UsageError: they do not hold.
    """
    plain = to_dict(_config(run_dir).test) | dict(overrides)
    if plain["window_px"] is None and "stride" not in overrides:
        del plain["stride"]
    return parse(ViewConfig, plain, "test")


def predict_images(run_dir: Path, images: Sequence[Path], out: Path) -> Iterator[Path]:
    """Write `NAME.mask.png` (label values) and `NAME.overlay.png` for each image; every image is checked first.

    The run's own test settings are used.

    Raises:
        DataError: an image cannot be read, or two have one name.
    """
    names = [path.stem for path in images]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two images are called {sorted(twice)[0]}", out, "predict them into two folders")
    pixels = [_read(path) for path in images]
    shards = _shards(run_dir)
    trained = load(run_dir, shards.num_classes)
    out.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, pixels, strict=True):
        mask = evaluate.predict(trained.model, image, trained.runtime.device, trained.precision, trained.config.test)
        rgb = figures.mask_to_rgb(mask, [c.color for c in shards.card.classes], shards.ignore_index)
        yield _write(out / f"{name}.mask.png", mask)
        yield _write(
            out / f"{name}.overlay.png", cv2.cvtColor(cv2.addWeighted(image, 0.5, rgb, 0.5, 0), cv2.COLOR_RGB2BGR)
        )


def _read(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the image: {error.strerror}", path, "name a PNG or JPEG file") from None
    decoding.check_image(data, path)
    return decoding.decode_image(data, path)


def _config(run_dir: Path) -> RunConfig:
    found = best_commit(run_dir)
    return configs.from_dict(found.state["config"], found.path)


def _shards(run_dir: Path) -> ShardSet:
    data = _config(run_dir).data
    return open_shards(data.shards, data.val_split, data.remote)


def _write(path: Path, pixels: np.ndarray) -> Path:
    if not cv2.imwrite(str(path), pixels):
        raise CheckpointError("cannot write", path, "choose a folder with room that you may write to")
    return path

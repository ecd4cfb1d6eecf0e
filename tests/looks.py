"""What of a run a value can change, each looked at by itself: identical trials are this field's classic bug."""

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from rayseg import config as configs
from rayseg import heads, losses, optim, segmenter
from rayseg.backbone import FeatureSpec
from rayseg.config import RunConfig
from rayseg.data.augment import augment
from rayseg.schema import parse, to_dict
from rayseg.segmenter import Segmenter
from rayseg.sweep.origin import Base, around, describe
from rayseg.train.step import sync_batch_norm

CLASSES = 11
SLIM = {"backbone.name": "resnet10t", "backbone.dilation_style": "timm", "backbone.multi_grid": None}
"""A backbone that is built in no time; a paper's own adds nothing to what is looked at, unless it is searched."""


def slim(base: Base) -> Base:
    """Put the sweep on a small backbone."""
    return base._replace(run=configs.merged(base.run, SLIM | {"backbone.pretrained": False}))


def skeleton(config: RunConfig) -> Segmenter:
    return _skeleton(json.dumps(to_dict(config.model(CLASSES))))


@functools.lru_cache(maxsize=4)
def _skeleton(config_json: str) -> Segmenter:
    return segmenter.skeleton(parse(segmenter.Config, json.loads(config_json), "looks"))


def forget() -> None:
    """Look at heads anew: their code is another now."""
    _model_of.cache_clear()
    _skeleton.cache_clear()


def model_of(config: RunConfig) -> Any:
    """Names and shapes of what is built and, of the head on fixed features and weights, what it computes.

    A repr would show an option that nothing reads.
    """
    return _model_of(json.dumps(to_dict(config.model(CLASSES))))


@functools.cache
def _model_of(config_json: str) -> Any:
    config = parse(segmenter.Config, json.loads(config_json), "looks")
    model = _skeleton(config_json)
    shapes = sorted((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())
    backbone = repr(model.backbone)
    return hashlib.sha256(f"{shapes} {backbone}".encode()).hexdigest(), computed(config.head, model.backbone.spec)


def computed(config: heads.HeadConfig, spec: FeatureSpec) -> Any:
    """The mean square of every output of the head in training, on features of a small image.

    It is made narrow: the shapes tell its width.
    """
    if getattr(config, "channels", None) is not None:
        config = config.model_copy(update={"channels": 32})
    torch.manual_seed(0)
    head = heads.build(config, spec, CLASSES).train()
    for tensor in head.parameters():  # no weight stays 0, such as that of an attention at its start
        with torch.no_grad():
            tensor.uniform_(0.5, 1) if tensor.ndim < 2 else tensor.normal_(std=tensor[0].numel() ** -0.5)
    side = 128 if spec.strides[-1] == 32 else 160
    features = [torch.randn(2, c, side // s, side // s) for c, s in zip(spec.channels, spec.strides, strict=True)]
    torch.manual_seed(1)
    with torch.no_grad():
        return [(name, round(x.double().square().mean().item(), 6)) for name, x in head(features).items()]


def loss_of(config: RunConfig) -> Any:
    """The total on fixed logits, most of them far off and most of them right: OHEM chooses differently."""
    model = skeleton(config)
    criterion = losses.for_model(config.loss, model, ignore_index=CLASSES, num_classes=CLASSES)
    names = ["main", *model.loss_weights(), *(["aux"] if model.auxiliary is not None else [])]
    rng = torch.Generator().manual_seed(0)
    # As many pixels as the batch's where OHEM counts them, else few; in blocks, so that borders have a width.
    whole = config.loss.ohem and max(config.augment.crop_px) <= 128
    batch, side = (config.train.batch, config.augment.crop_px[0]) if whole else (2, 64)
    blocks = torch.randint(CLASSES + 1, (batch, side // 16, side // 16), generator=rng)
    target = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    right = torch.nn.functional.one_hot(target, CLASSES + 1).permute(0, 3, 1, 2)[:, :CLASSES].float()
    totals = []
    for lead in (0.0, 10.0):
        outputs = {}
        for name in names:
            channels = 1 if name in model.border_outputs else CLASSES
            noise = 2 * torch.randn(batch, channels, side, side, generator=rng)
            outputs[name] = noise if channels == 1 else noise + lead * right
        totals.append(criterion(outputs, target)["loss"].item())
    return totals


def optimizer_of(config: RunConfig) -> Any:
    """The optimizer's groups without their parameters, and its rate at the start, halfway and near the end."""
    model = skeleton(config)
    optimizer = optim.build(config.optim, model.backbone, model)
    groups = str([{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups])
    steps = config.train.steps
    return groups, [optim.set_rate(optimizer, config.optim, step, steps) for step in (0, steps // 2, steps - 1)]


def normalised_of(config: RunConfig) -> Any:
    """The model's layers as the run's workers, without GPUs, have them."""
    device, model = torch.device("cpu"), copy.deepcopy(skeleton(config))
    return repr(sync_batch_norm(model, config.train.sync_norm, world=config.train.workers, device=device))


def sample_of(config: RunConfig) -> Any:
    """Eight crops of a picture."""
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    mask = image[..., 0] // 24
    crops = [augment(image, mask, config.augment, np.random.default_rng(i), CLASSES) for i in range(8)]
    return hashlib.sha256(b"".join(x.tobytes() for crop in crops for x in crop)).hexdigest()


LOOK: dict[str, Callable[[RunConfig], Any]] = {
    "head": model_of,
    "head.norm": normalised_of,
    "backbone": model_of,
    "loss": loss_of,
    "optim": optimizer_of,
    "train.sync_norm": normalised_of,
    "augment": sample_of,
}
"""By a name or its table: what of the run every one of its values has to change."""


def look(name: str, config: RunConfig) -> Any:
    """Look at what `name` has to change."""
    return LOOK[name if name in LOOK else name.split(".")[0]](config)


def alike(base: Base) -> Iterator[str]:
    """Name each pair of values of a dimension that change nothing, and each pair of rows."""
    small = slim(base)
    for name, dimension in base.space.items():
        on = base if name.startswith("backbone.") else small
        seen: dict[str, Any] = {}
        drawn = [dimension.draw(np.random.default_rng(seed)) for seed in (0, 1)]
        for value in {*dimension.ends(), *drawn}:
            trial = on.trial(1, around(on, name, value))
            for found in (trial.key, str(look(name, trial.config))):  # a key says what else is alike: one worker
                if found in seen:
                    yield f"{name}: {seen[found]} and {value}"
                seen[found] = value
    rows: dict[str, Any] = {}
    for row in base.rows:
        config = small.trial(1, dict(row)).config
        found = str([look(config) for look in (model_of, loss_of, optimizer_of, sample_of)])
        if found in rows:
            yield f"rows: {describe(rows[found])} and {describe(row)}"
        rows[found] = row

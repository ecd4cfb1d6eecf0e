"""RunConfig: the one definition of a run. A dotted name such as `head.kernel_size` is a path into it."""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from rayseg import backbone as backbones
from rayseg import losses, segmenter
from rayseg import optim as optimizers
from rayseg.data import augment as augmentation
from rayseg.data import remote as remotes
from rayseg.data.reader import BadShard
from rayseg.errors import UsageError
from rayseg.schema import Value, parse, to_dict

Count = Annotated[int, Field(ge=1)]
T = TypeVar("T")


class DataConfig(Value):
    """Where the samples come from; `val_samples` evaluates on the first n of the split (all of it when absent).

    `share` trains on a part of the split, chosen by the samples' keys: a larger share contains the smaller ones.
    `shards` is a folder, or an https, s3 or gs URL (`remote` says where its shards are kept). `mixed_shards` goes
    through the shards so many at a time, for sets larger than the disk. `decoded_cache` is a folder for the decoded
    split. `bad_shard` "skip" trains on although up to 0.1 % of the samples cannot be read (`data.tolerance`).
    """

    shards: str
    train_split: str = "train"
    val_split: str = "val"
    val_samples: Count | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    loader_threads: Annotated[int, Field(ge=1, le=64)] = 2
    mixed_shards: Count | None = None
    decoded_cache: str | None = None
    bad_shard: BadShard = "error"
    remote: remotes.Config = remotes.Config()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.decoded_cache is not None and self.bad_shard == "skip":
            raise ValueError("bad_shard = 'skip' beside decoded_cache: a split is decoded whole, so give one of them")
        return self


class TrainConfig(Value):
    """How long, how much at once, on how many workers. `step` counts optimizer updates; `batch` is global.

    `accumulate` goes through each worker's part of the batch in so many micro-batches; `clip_norm` limits the norm of
    all gradients together; `ema_decay` judges and keeps the moving average of weights and statistics. `compile` runs
    the model through torch's compiler. `sync_norm` takes batch norm's statistics over all workers: on GPUs ("auto"),
    on any device ("on") or never. `freeze_norm` keeps batch norm as it is, statistics and weights (GALD's stage on
    coarse labels); `freeze_backbone` what the first so many feature maps are made of, or "all" of it.

    Each evaluation keeps the predicted masks of the `shown_images` hardest images (`train.hardest`); `boundary_scores`
    adds boundary F-scores and boundary IoU.
    A commit is made after each evaluation, and with `commit_every` after so many steps too: what a kill can cost.
    `on_nan` says what follows a loss or gradient that is not finite (`train.faults`), and `hang_s` how long a worker
    may do nothing before all are started again.
    """

    steps: Count
    batch: Count
    workers: Annotated[int, Field(ge=1, le=4096)] = 1
    eval_every: Count
    log_every: Count = 10
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: Count = 1
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    compile: bool = False
    channels_last: bool = True
    sync_norm: Literal["auto", "on", "off"] = "auto"
    freeze_norm: bool = False
    freeze_backbone: Literal["none", "all"] | Annotated[int, Field(ge=1, le=backbones.LEVELS)] = "none"
    shown_images: Annotated[int, Field(ge=0, le=64)] = 16
    boundary_scores: bool = True
    commit_every: Count | None = None
    on_nan: Annotated[str, Field(pattern=r"^(fail|rollback|skip:[1-9]\d{0,5})$")] = "fail"
    hang_s: Annotated[float, Field(gt=0)] = 120.0


_STRIDE = 2 / 3


class ViewConfig(Value):
    """The views of an image whose class probabilities are averaged at test time (`train.views` says how).

    Every one of `scales`, with `flip` mirrored too. With `window_px` (height, width, on the scaled image) the model
    sees windows instead of the whole, `stride` of a window apart (PSPNet's 2/3).
    """

    scales: Annotated[tuple[augmentation.Scale, ...], Field(min_length=1, max_length=32)] = (1.0,)
    flip: bool = False
    window_px: tuple[augmentation.Side, augmentation.Side] | None = None
    stride: Annotated[float, Field(gt=0, le=1)] = _STRIDE

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(set(self.scales)) != len(self.scales):
            raise ValueError(f"scales = {list(self.scales)}: give each scale once")
        if self.window_px is None and self.stride != _STRIDE:
            raise ValueError(f"stride = {self.stride} would be ignored without window_px: give both or neither")
        return self

    def __str__(self) -> str:
        what = "whole images" if self.window_px is None else "windows of {}x{} px".format(*self.window_px)
        at = f" at scales {' '.join(f'{scale:g}' for scale in self.scales)}" if self.scales != (1.0,) else ""
        return f"{what}{at}{', and mirrored' if self.flip else ''}"


class RunConfig(Value):
    """Everything that decides a run. `schema.to_dict` and `schema.parse` are inverse to each other on it.

    `start_from` is a run (its best commit) or a commit whose weights the model has before step 0; a relative path is
    taken from where the config is made, for workers run elsewhere. `test` is what `rayseg evaluate` and `predict` use.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    start_from: str | None = None
    data: DataConfig
    backbone: backbones.Config = backbones.Config()
    head: segmenter.AnyHead
    loss: losses.Config = losses.Config()
    optim: optimizers.Config = optimizers.Config()
    augment: augmentation.Config
    train: TrainConfig
    test: ViewConfig = ViewConfig()

    @field_validator("start_from")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        if path is not None and not path.strip():
            raise UsageError("it goes on from a trained run", "start_from", "name that run: --set start_from=RUN")
        return None if path is None else str(Path(path).expanduser().absolute())

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.start_from is not None and (self.backbone.pretrained or self.backbone.weights is not None):
            given = "weights" if self.backbone.weights is not None else "pretrained"
            fix = "keep one of them"
            raise UsageError(f"backbone.{given} would be overwritten by start_from's weights", "config", fix)
        if self.train.batch % self.train.workers:
            raise UsageError(
                f"train.batch = {self.train.batch} is not a multiple of train.workers = {self.train.workers}",
                "config",
                "choose a global batch that every worker gets an equal part of",
            )
        if (self.train.batch // self.train.workers) % self.train.accumulate:
            what = f"train.accumulate = {self.train.accumulate} does not divide train.batch / train.workers"
            raise UsageError(what, "config", "choose micro-batches that are all of one size")
        if self.optim.warmup_steps and self.optim.warmup_steps >= self.train.steps:
            what = f"optim.warmup_steps = {self.optim.warmup_steps} of train.steps = {self.train.steps}: it never ends"
            raise UsageError(what, "config", "lower optim.warmup_steps")
        pixels = self.train.batch * self.augment.crop_px[0] * self.augment.crop_px[1]
        if self.loss.ohem and self.loss.ohem_min_kept >= pixels:
            raise UsageError(
                f"loss.ohem_min_kept = {self.loss.ohem_min_kept} of a batch of {pixels} pixels keeps them all",
                "config",
                "lower loss.ohem_min_kept, or set loss.ohem=false",
            )
        return self

    def model(self, num_classes: int) -> segmenter.Config:
        """Say which model to build; without weight on the auxiliary loss its head is not built."""
        return segmenter.Config(
            backbone=self.backbone, head=self.head, num_classes=num_classes, auxiliary=self.loss.aux_weight > 0
        )

    def while_training(self) -> Self:
        """Give the config that a run evaluates itself with: one view of each image, so that a curve costs little.

        A window stays: a head that was trained on crops may need one to be judged at all.
        """
        one = self.test.model_copy(update={"scales": (1.0,), "flip": False})
        return self.model_copy(update={"test": one})


def from_dict(mapping: Mapping[str, Any], where: object = "config") -> RunConfig:
    """Build a run's config from plain types.

    Raises:
        UsageError: the first fault with its dotted field.
    """
    return parse(RunConfig, mapping, where)


_FREE = {"data.loader_threads", "data.shards", "train.workers", "train.log_every", "test.scales", "test.flip"}
_FREE |= {"train.compile"}  # rounding apart, the same
_FREE |= {"train.boundary_scores", "train.shown_images", "train.commit_every", "train.on_nan", "train.hang_s"}
_FREE |= {"data.decoded_cache", "data.bad_shard", *(f"data.remote.{name}" for name in remotes.Config.model_fields)}


def identity(config: RunConfig) -> dict[str, Any]:
    """Flatten what decides the result: two configs of equal identity train the same model.

    Where the shards lie, how they are read and how many workers share the batch may change at a resume; so may what
    only `rayseg evaluate` reads, and what the loss reads nothing of.
    """
    unread = config.loss.unread(aux=segmenter.has_stage_auxiliary(config.head))
    free = _FREE | {f"loss.{field}" for field in unread}
    return {name: value for name, value in flatten(to_dict(config)).items() if name not in free}


def digest(config: RunConfig) -> str:
    """Hash the config's identity to 16 hex digits."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested plain types as dotted names; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted names in a copy of a nested mapping.

    Another `head.name` drops the old head's options, and what the loss says of its outputs.
    """
    result = copy.deepcopy(dict(base))
    before = result.get("head", {}).get("name")
    if overrides.get("head.name", before) != before:
        result["head"] = {}
        of_outputs = [field for field in result.get("loss", {}) if field == "weights" or field.startswith("border_")]
        for field in of_outputs:
            del result["loss"][field]
    for name, value in overrides.items():
        *path, last = name.split(".")
        table = result
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise UsageError(f"'{name}': '{part}' is a value, not a table", "--set", "name an existing field")
        table[last] = value
    return result


def parse_setting(text: str) -> tuple[str, Any]:
    """Read `a.b=c`; the value is TOML (`1e-3`, `true`, `[1, 2]`), any other text is a string."""
    name, equals, value = text.partition("=")
    if not equals or not value or not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"cannot read '{text}'", "--set", "write it as a.b=c, for example optim.lr=1e-3")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """Read every `a.b=c`; the same name twice is refused."""
    return each_once(map(parse_setting, texts), "set", "--set")


def each_once(pairs: Iterable[tuple[str, T]], done: str, option: str) -> dict[str, T]:
    """Collect what was given by name.

    Raises:
        UsageError: a name was `done` (set, searched) twice with `option`.
    """
    found: dict[str, T] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(f"'{name}' is {done} twice", option, "keep one of them")
        found[name] = value
    return found

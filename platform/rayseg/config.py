"""RunConfig: the one definition of a run. A dotted name such as `head.kernel_size` is a path into it."""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rayseg import backbone as backbones
from rayseg import losses, segmenter
from rayseg import optim as optimizers
from rayseg.data import augment as augmentation
from rayseg.errors import UsageError
from rayseg.schema import Value, parse, to_dict

Count = Annotated[int, Field(ge=1)]


class DataConfig(Value):
    """Where the samples come from; `val_samples` evaluates on the first n of the split (all of it when absent)."""

    shards: str
    train_split: str = "train"
    val_split: str = "val"
    val_samples: Count | None = None
    loader_threads: Annotated[int, Field(ge=1, le=64)] = 2


class TrainConfig(Value):
    """How long, how much at once, on how many workers. `step` counts optimizer updates; `batch` is global."""

    steps: Count
    batch: Count
    workers: Annotated[int, Field(ge=1, le=4096)] = 1
    eval_every: Count
    log_every: Count = 10
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True
    shown_images: Annotated[int, Field(ge=0, le=64)] = 4


class RunConfig(Value):
    """Everything that decides a run. `schema.to_dict` and `schema.parse` are inverse to each other on it."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: DataConfig
    backbone: backbones.Config = backbones.Config()
    head: segmenter.AnyHead
    loss: losses.Config = losses.Config()
    optim: optimizers.Config = optimizers.Config()
    augment: augmentation.Config
    train: TrainConfig

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.train.batch % self.train.workers:
            raise UsageError(
                f"train.batch = {self.train.batch} is not a multiple of train.workers = {self.train.workers}",
                "config",
                "choose a global batch that every worker gets an equal part of",
            )
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


def from_dict(mapping: Mapping[str, Any], where: object = "config") -> RunConfig:
    """Build a run's config from plain types.

    Raises:
        UsageError: the first fault with its dotted field.
    """
    return parse(RunConfig, mapping, where)


_FREE = {"data.loader_threads", "data.shards", "train.workers", "train.log_every"}


def identity(config: RunConfig) -> dict[str, Any]:
    """Flatten what decides the result: two configs of equal identity train the same model.

    Where the shards lie, how many threads read them and how many workers share the batch may change at a resume.
    """
    return {name: value for name, value in flatten(to_dict(config)).items() if name not in _FREE}


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
    """Set dotted names in a copy of a nested mapping; another `head.name` drops the old head's options."""
    result = copy.deepcopy(dict(base))
    if overrides.get("head.name", result.get("head", {}).get("name")) != result.get("head", {}).get("name"):
        result["head"] = {}
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
    settings: dict[str, Any] = {}
    for name, value in map(parse_setting, texts):
        if name in settings:
            raise UsageError(f"'{name}' is set twice", "--set", "keep one of them")
        settings[name] = value
    return settings

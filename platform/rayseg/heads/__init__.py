"""The heads: a file's name in this folder is the head's name, and each file exports `Config` and `Head`.

The contract, which `tests/heads/test_contract.py` runs over every file:

* `Config(HeadConfig)` is a frozen value, `name` its literal, every option with a default;
* `Head(config, spec, num_classes)` reads channels and strides from the backbone's `spec`;
* `forward(features)` takes the backbone's feature maps, shallow to deep, and returns logits by name, at any
  stride: `"main"` first, the head's own auxiliary outputs after it, the same names in training and evaluation
  mode (evaluation may leave auxiliary outputs out);
* `loss_weights()` gives the weight of each auxiliary output of its own;
* `border_outputs` names those of them that have one channel, the logit of "a border is here".
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

from torch import Tensor, nn

from rayseg.backbone import FeatureSpec
from rayseg.errors import UsageError, nearest
from rayseg.schema import Value, parse


class HeadConfig(Value):
    """What every head has: its name and the normalisation of its layers.

    "batch" is over the batches that `train.sync_norm` says, "sync_batch" over those of all workers whatever it says.
    """

    name: str
    norm: Literal["batch", "sync_batch", "group"] = "batch"


class SegmentationHead(nn.Module, ABC):
    """Abstract: what `Segmenter` asks of a head."""

    stage_auxiliary: ClassVar[bool] = True
    """Whether the paper trains it with an auxiliary FCN head on the last-but-one stage."""

    border_outputs: ClassVar[tuple[str, ...]] = ()
    """Auxiliary outputs of one channel, which learn where classes meet; a config may leave some of them out."""

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Map feature maps `(B, C_i, H/s_i, W/s_i)`, shallow to deep, to logits `(B, num_classes, h, w)` by name.

        Those of `border_outputs` are `(B, 1, h, w)`.
        """

    def loss_weights(self) -> dict[str, float]:
        """Weight of each auxiliary output the head itself makes (not `"main"`)."""
        return {}


def names() -> list[str]:
    """List the heads, sorted: the files of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def config_class(name: str) -> type[HeadConfig]:
    """Find the config class of the head called `name`.

    Raises:
        UsageError: no such head; the nearest names are offered.
    """
    return cast(type[HeadConfig], _module(name).Config)


def from_dict(mapping: Mapping[str, Any], where: object = "head") -> HeadConfig:
    """Build a head's config from plain types; `mapping["name"]` says which head."""
    name = mapping.get("name")
    if not isinstance(name, str):
        raise UsageError("a head needs a name", where, nearest("", names()))
    return parse(config_class(name), mapping, where)


def build(config: HeadConfig, spec: FeatureSpec, num_classes: int) -> SegmentationHead:
    """Build the module that `config` describes on features of `spec`."""
    return cast(SegmentationHead, _module(config.name).Head(config, spec, num_classes))


def _module(name: str) -> Any:
    if name not in names():
        raise UsageError(f"unknown head '{name}'", "head.name", nearest(name, names()))
    return importlib.import_module(f"{__name__}.{name}")

"""rayseg: find out, on a Ray cluster, which segmentation head wins. The public API, on one page.

    model = rayseg.create("gald", backbone="resnet50s", num_classes=19, kernel_size=5)
    model(images)                      # (B,3,H,W) float -> {"main": logits (B,19,H,W), ...}
    rayseg.heads.names()               # the heads there are
    rayseg.data.open_shards(path, "train")   # iterates samples: key, image, mask
    rayseg.metrics.ConfusionMatrix, rayseg.metrics.boundary_f1

Each part is imported when it is first used: `import rayseg` loads neither torch nor timm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rayseg.data as data
    import rayseg.heads as heads
    import rayseg.metrics as metrics
    from rayseg.segmenter import create

__all__ = ["create", "data", "heads", "metrics"]


def __getattr__(name: str) -> Any:
    if name == "create":
        return importlib.import_module("rayseg.segmenter").create
    if name in __all__:
        return importlib.import_module(f"rayseg.{name}")
    raise AttributeError(f"module 'rayseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

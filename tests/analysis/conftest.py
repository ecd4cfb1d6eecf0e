"""What the analyses' tests share: subjects with awake weights, and naive forms of what a view is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from analysed_run import PLAIN
from torch import nn

from rayseg import config as configs
from rayseg import segmenter
from rayseg.analysis import catalogue
from rayseg.analysis.subject import Asked, Subject, find, look
from rayseg.data import open_shards
from rayseg.train import inference
from rayseg.train.commit import Commit
from rayseg.train.runtime import LocalRuntime


def wake(head: nn.Module) -> None:
    """Give every parameter and running statistic of the head a value that a mistake would show in."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in [*head.parameters(), *head.buffers()]:
            if not tensor.is_floating_point():
                continue
            if tensor.dim() > 1:
                tensor.normal_(std=2.0 * tensor[0].numel() ** -0.5)
            else:
                tensor.uniform_(0.3, 0.9)


@pytest.fixture
def make(tiny_shards: Any, tmp_path: Any) -> Callable[..., Subject]:
    """Make a subject without a training: `make("gald", channels=16, …)`; settings outside the head as `at`."""

    def build(head: str, at: dict[str, Any] | None = None, **options: Any) -> Subject:
        named = {"head.name": head, **{f"head.{name}": value for name, value in options.items()}}
        plain = configs.merged(PLAIN, {"data.shards": str(tiny_shards), **named, **(at or {})})
        config = configs.from_dict(plain)
        shards = open_shards(tiny_shards, "val")
        torch.manual_seed(0)
        model = segmenter.build(config.model(shards.num_classes)).eval()
        wake(model.head)
        trained = inference.Trained(config, model, LocalRuntime(tmp_path, "cpu"), torch.float32)
        return Subject(f"{head}-run", Commit(tmp_path, 2, {}), "val", shards, trained)

    return build


@pytest.fixture
def ask() -> Callable[..., Asked]:
    """Ask for a figure of a subject's images, the first one when none is named."""

    def asked(
        figure: str, subject: Subject, point: tuple[int, int] | None = None, *, images: int = 1, **more: Any
    ) -> Asked:
        samples = [find(subject, str(key)) for key in subject.shards.index.key[:images]]
        views = [look(subject, sample, point) for sample in samples]
        return Asked(catalogue.find(figure), subject, more.get("against"), samples, views)

    return asked

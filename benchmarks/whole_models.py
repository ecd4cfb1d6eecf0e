"""Measure whole models: a training step with each head over one with a bare classifier, and other libraries' models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from measure import MIB, Cost, Form, arguments, compare, publish
from rayseg import heads, segmenter
from rayseg.backbone import Backbone
from rayseg.backbone import Config as BackboneConfig
from rayseg.calibration.counting import parameters
from rayseg.schema import parse

ENCODER, NUM_CLASSES = "resnet18", 19
ABOUT = f"""A step is forward and backward, with the gradients of all parameters, in float32 and training mode. The loss
is the log-sum-exp of every output at the images' size, which costs what cross-entropy costs. All models have the
encoder {ENCODER} and {NUM_CLASSES} classes; those of a table run in turn, round by round. Bytes are the most alive at
once, beside weights and images, gradients included.

`bare` is the backbone with a 1x1 on its deepest map. rayseg's heads have their defaults; their auxiliary outputs take
part, as in training, but for `main only`, which has none on the backbone's stages. `smp` is
segmentation_models_pytorch, with its defaults but for what is said; it has no auxiliary outputs."""


class Bare(nn.Module):
    """A backbone and a 1x1 classifier."""

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.backbone = Backbone(parse(BackboneConfig, {"name": ENCODER, "output_stride": output_stride}, "bare"))
        self.classify = nn.Conv2d(self.backbone.spec.channels[-1], NUM_CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B,3,H,W) to logits of their size."""
        logits = self.classify(self.backbone(images)[-1])
        return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear")


def with_head(name: str, output_stride: int, *, auxiliary: bool = True) -> nn.Module:
    """Build rayseg's model of a head."""
    backbone = {"name": ENCODER, "output_stride": output_stride}
    mapping = {"backbone": backbone, "head": {"name": name}, "num_classes": NUM_CLASSES, "auxiliary": auxiliary}
    return segmenter.build(parse(segmenter.Config, mapping, name))


def smp_model(name: str, **options: Any) -> nn.Module:
    """Build a model of segmentation_models_pytorch, without fetching weights."""
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError:
        sys.exit("error: segmentation_models_pytorch is missing: pip install -c constraints.txt -e '.[bench]'")
    net: nn.Module = getattr(smp, name)(ENCODER, encoder_weights=None, classes=NUM_CLASSES, **options)
    return net


def step(net: nn.Module) -> Form:
    """Make a form of a training step. It needs gradients of its own: `measure` asks only for those of inputs."""
    net.train()
    wanted = [p for p in net.parameters() if p.requires_grad]

    def form(images: Tensor) -> Tensor:
        with torch.enable_grad():
            outputs = net(images)
            named: Mapping[str, Tensor] = outputs if isinstance(outputs, Mapping) else {"main": outputs}
            loss = torch.stack([logits.logsumexp(1).mean() for logits in named.values()]).sum()
            torch.autograd.grad(loss, wanted, allow_unused=True)
        return loss

    return form


def table(title: str, nets: Mapping[str, nn.Module], costs: Mapping[str, Cost]) -> str:
    """Lay out how much more than the first net every net takes."""
    first = next(iter(costs.values()))
    lines = [
        f"### {title}",
        "",
        "| model | parameters M | peak MiB | times the memory | times the time |",
        "|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        size = parameters(nets[name]) / 1e6
        lines.append(
            f"| {name} | {size:.2f} | {cost.peak / MIB:.0f} | {cost.peak / first.peak:.2f} | {cost.ratio:.2f} |"
        )
    return "\n".join(lines)


def at_stride_8() -> dict[str, nn.Module]:
    """Build every head on a dilated encoder, and the other library's models with dilation or at stride 8."""
    mine = {name: with_head(name, 8) for name in heads.names()}
    alone = {f"{name}, main only": with_head(name, 8, auxiliary=False) for name in ("psp", "aspp")}
    theirs = {
        "smp PSPNet (stride 8: without the last two stages)": smp_model("PSPNet"),
        "smp DeepLabV3Plus (stride 8)": smp_model("DeepLabV3Plus", encoder_output_stride=8),
    }
    return {"bare": Bare(8), **mine, **alone, **theirs}


def at_stride_32() -> dict[str, nn.Module]:
    """Build the heads that are made for an encoder without dilation, and the other library's."""
    mine = {name: with_head(name, 32) for name in ("dfdam", "dfn")}
    return {"bare": Bare(32), **mine, "smp UPerNet": smp_model("UPerNet")}


def main() -> None:
    """Print the page, keep it if asked."""
    wanted = arguments(__doc__ or "")
    size, rounds = (128, 1) if wanted.quick else (256, 5)
    sections = [ABOUT]
    torch.manual_seed(0)
    tables: dict[str, Callable[[], dict[str, nn.Module]]] = {"8": at_stride_8, "32": at_stride_32}
    for stride, build in tables.items():
        nets = build()
        forms = {name: step(net) for name, net in nets.items()}
        costs = compare(forms, [torch.randn(2, 3, size, size)], training=False, rounds=rounds)
        sections.append(table(f"Output stride {stride}, 2 images of {size} x {size}", nets, costs))
    publish("whole_models", "Whole models", sections, write=wanted.write)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""The whole model: names, auxiliary head, cost, fingerprint, the same under DistributedDataParallel."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import rayseg
from rayseg import segmenter
from rayseg.errors import UsageError
from rayseg.losses import Config as LossConfig
from rayseg.losses import SegmentationLoss
from rayseg.schema import parse, to_dict
from rayseg.segmenter import Segmenter


def config(head: str = "fcn", *, num_classes: int = 4, auxiliary: bool = True, **options: Any) -> segmenter.Config:
    backbone = {"name": "test_resnet", **options.pop("backbone", {})}
    mapping = {"backbone": backbone, "head": {"name": head, **options}, "num_classes": num_classes}
    return parse(segmenter.Config, {**mapping, "auxiliary": auxiliary}, "test")


def test_create_gives_logits_at_input_size() -> None:
    net = rayseg.create("gald", backbone="test_resnet", num_classes=7, channels=16, kernel_size=3)
    assert isinstance(net, Segmenter)
    x = torch.randn(2, 3, 50, 61)
    assert {name: o.shape for name, o in net.train()(x).items()} == dict.fromkeys(["main", "aux"], (2, 7, 50, 61))
    assert list(net.eval()(x)) == ["main"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "gold"}, r"unknown head 'gold' .*did you mean 'gald'"),
        ({"kernal_size": 3}, r"unknown key 'kernal_size' \(head\): did you mean 'kernel_size'"),
        ({"kernel_size": "5"}, r'kernel_size = "5" \(head\): .* integer'),
        ({"backbone": "resnet19"}, "unknown backbone 'resnet19'"),
        ({"num_classes": 1}, r"num_classes = 1 \(create\)"),
        ({"backbone": "pvt_v2_b0"}, r"cannot have output_stride 8, only 32 .*set it to 32"),
        ({"output_stride": 7}, r"output_stride = 7 \(create\)"),
    ],
)
def test_create_says_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rayseg.create(**{"head": "gald", "backbone": "test_resnet", "num_classes": 3, **arguments})


def test_create_takes_the_output_stride_that_a_backbone_has() -> None:
    net = rayseg.create("fcn", backbone="pvt_v2_b0", num_classes=3, output_stride=32)
    assert net.backbone.spec.strides == (4, 8, 16, 32)
    assert rayseg.create("fcn", backbone="test_resnet", num_classes=3).backbone.spec.strides[-1] == 8


def test_without_auxiliary_none_is_built() -> None:
    net = segmenter.build(config(auxiliary=False))
    assert net.auxiliary is None
    assert list(net.train()(torch.randn(2, 3, 40, 40))) == ["main"]


def test_auxiliary_reads_the_last_but_one_stage() -> None:
    net = segmenter.build(config()).eval()
    x = torch.randn(1, 3, 48, 48)
    features = net.backbone(x)
    assert net.auxiliary is not None
    assert net.auxiliary(features[-2]).shape == (1, 4, 6, 6)
    net.train()
    net.backbone.eval()
    net.auxiliary.eval()
    expected = nn.functional.interpolate(net.auxiliary(net.backbone(x)[-2]), size=(48, 48), mode="bilinear")
    torch.testing.assert_close(net(x)["aux"], expected)


def test_config_survives_json() -> None:
    for head in rayseg.heads.names():
        before = config(head)
        assert parse(segmenter.Config, json.loads(json.dumps(to_dict(before))), "test") == before


def test_the_same_seed_gives_the_same_model() -> None:
    def weights(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(segmenter.build(config("gald", channels=16)).state_dict().values())

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))


def test_new_convolutions_start_by_hes_rule() -> None:
    net = segmenter.build(config("fcn", channels=256))
    convolution = net.head.layers[0][0]
    expected = (2 / (convolution.in_channels * 9)) ** 0.5
    assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert not net.head.layers[2].bias.any()


# --- cost and fingerprint -------------------------------------------------------------------------------------------


def convolution_macs(net: nn.Module, size: tuple[int, ...]) -> int:
    """Count by hooks: output elements times the taps and input channels each of them reads."""
    counts = []

    def count(layer: nn.Module, _: Any, out: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            counts.append(out.numel() * layer.weight[0].numel())

    hooks = [layer.register_forward_hook(count) for layer in net.modules()]
    net(torch.zeros(1, *size))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def test_cost_counts_every_convolution() -> None:
    net = segmenter.build(config("psp"))
    cost = segmenter.describe(net, (3, 72, 104))
    assert cost.macs == convolution_macs(net.eval(), (3, 72, 104))
    trained = segmenter.describe(net, (3, 72, 104), training=True)
    assert trained.macs == convolution_macs(net.train(), (3, 72, 104)) > cost.macs
    assert cost.params == cost.backbone_params + cost.head_params + cost.aux_params
    assert cost.params == sum(p.numel() for p in net.parameters())
    assert cost.strides == (4, 8, 8, 8)
    assert net.training
    assert next(net.parameters()).device.type == "cpu"


def test_cost_of_resnet18_is_the_known_one() -> None:
    (cost,) = segmenter.costs(["fcn"], "resnet18", 19, output_stride=32, size=(3, 224, 224))
    head = 49 * (512 * 128 * 9 + 128 * 19)
    assert cost.macs == 1_813_561_344 + head  # torchvision's 1.814 G without the classifier
    assert cost.backbone_params == 11_176_512


def test_costs_of_all_heads() -> None:
    assert [
        c.head for c in segmenter.costs([], "test_resnet", 5, output_stride=16, size=(3, 256, 256))
    ] == rayseg.heads.names()


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"kernel_size": 3},
    {"dilation": 3},
    {"norm": "group"},
    {"key_query": "key"},
    {"ga": "psp"},
    {"auxiliary": False},
    {"num_classes": 5},
    {"backbone": {"dilation_style": "uniform"}},
    {"backbone": {"multi_grid": [2]}},
    {"backbone": {"output_stride": 16}},
    {"ga": "cgnl", "ld": "v1"},
    {"ga": "cgnl", "ld": "v1", "ld_residual": "paper"},
]


def test_fingerprints_differ_where_the_model_does() -> None:
    prints = [segmenter.fingerprint(segmenter.skeleton(config("gald", **options))) for options in DIFFERENT]
    assert len(set(prints)) == len(DIFFERENT)
    assert all(len(p) == 12 and int(p, 16) >= 0 for p in prints)


def test_fingerprint_is_of_the_model_and_not_of_its_weights_or_its_config() -> None:
    spelled_out = config("gald", ga="aspp", ld="v2", kernel_size=5, dilation=6)
    prints = {
        segmenter.fingerprint(segmenter.skeleton(config("gald"))),
        segmenter.fingerprint(segmenter.build(config("gald"))),
        segmenter.fingerprint(segmenter.build(spelled_out).to(memory_format=torch.channels_last)),
    }
    assert len(prints) == 1


def test_skeleton_takes_no_memory_and_no_weights() -> None:
    net = segmenter.skeleton(config(backbone={"weights": "absent.pth"}))
    assert {p.device.type for p in net.parameters()} == {"meta"}


def test_import_is_light() -> None:
    code = "import rayseg, sys; print(sorted({'torch', 'timm', 'ray', 'numpy'} & set(sys.modules)), dir(rayseg))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("[]")
    assert "'create'" in out
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rayseg.nonsense


# --- ranks ----------------------------------------------------------------------------------------------------------


def gradients(net: nn.Module, images: Tensor, target: Tensor) -> dict[str, Tensor]:
    criterion = SegmentationLoss(LossConfig(ohem=True, ohem_min_kept=3000), ignore_index=255, weights={})
    criterion(net(images), target)["loss"].backward()
    inner = net.module if isinstance(net, DistributedDataParallel) else net
    return {name: p.grad for name, p in inner.named_parameters()}


def same_everywhere() -> tuple[nn.Module, Tensor, Tensor]:
    """A model in double precision, in evaluation mode (each rank's own batch statistics would differ), and a batch."""
    torch.manual_seed(0)
    net = segmenter.build(config("gald", auxiliary=False, channels=16)).double().eval()
    target = torch.randint(4, (2, 41, 47))
    target[0, :30] = 255
    return net, torch.randn(2, 3, 41, 47).double(), target


def rank_main(rank: int, folder: str, port: int) -> None:
    """Take one image a rank."""
    torch.set_num_threads(1)
    rendezvous = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    net, images, target = same_everywhere()
    found = gradients(DistributedDataParallel(net), images[rank : rank + 1], target[rank : rank + 1])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_learn_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(rank_main, args=(str(tmp_path), port), nprocs=2)
    alone = gradients(*same_everywhere())
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, gradient in alone.items():
            torch.testing.assert_close(together[name], gradient, rtol=1e-9, atol=1e-12)

"""The heads' contract, over every file in `heads/`."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rayseg import backbone, heads, losses, segmenter
from rayseg.errors import UsageError
from rayseg.losses import SegmentationLoss
from rayseg.schema import to_dict
from rayseg.segmenter import Segmenter

NUM_CLASSES = 5
SIZES = [(33, 33), (33, 130), (40, 47), (97, 48), (65, 72)]
CERTAIN = (65, 72)  # at output stride 8 every head takes this size; smaller ones it may refuse

every_head = pytest.mark.parametrize("name", heads.names())


def model(
    name: str, *, on: str = "test_resnet", norm: str = "batch", output_stride: int = 8, channels: int | None = 64
) -> Segmenter:
    """Build a head on a tiny backbone, narrow unless `channels` is None: what is tested here has no width."""
    torch.manual_seed(0)
    given = {"channels": channels} if channels and "channels" in heads.config_class(name).model_fields else {}
    config = segmenter.Config(
        backbone=backbone.Config.model_validate({"name": on, "output_stride": output_stride}),
        head=heads.from_dict({"name": name, "norm": norm, **given}),
        num_classes=NUM_CLASSES,
    )
    return segmenter.build(config)


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def labels(batch: int, height: int, width: int) -> Tensor:
    """Regions of every class, with borders between them and some pixels ignored."""
    cells = torch.randint(NUM_CLASSES, (batch, 4, 5), generator=torch.Generator().manual_seed(4))
    found = cells.repeat_interleave(-(-height // 4), 1).repeat_interleave(-(-width // 5), 2)[:, :height, :width]
    return found.masked_fill(torch.arange(height)[:, None] > height - 5, 255)


def criterion(net: Segmenter, **options: object) -> SegmentationLoss:
    return SegmentationLoss(
        losses.Config.model_validate(options),
        ignore_index=255,
        weights=net.loss_weights(),
        borders=net.border_outputs,
        num_classes=NUM_CLASSES,
    )


def unfreeze(net: nn.Module) -> None:
    """Move every parameter off its initial value: some start at 0 and would hide the gradients of others."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def refused(net: Segmenter, x: Tensor) -> UsageError | None:
    try:
        net(x)
    except UsageError as error:
        return error
    return None


@every_head
def test_config_has_a_default_for_every_option_and_survives_json(name: str) -> None:
    config = heads.config_class(name)()
    assert config.name == name
    assert heads.from_dict(json.loads(json.dumps(to_dict(config)))) == config


@every_head
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown key 'nrom'.*did you mean 'norm'"):
        heads.from_dict({"name": name, "nrom": "batch"})


IMPOSSIBLE = {
    "kernel_size": [0, 4],
    "dilation": [0],
    "channels": [0, -64],
    "dropout": [1.0, -0.1],
    "rates": [[0]],
    "bins": [[], [0]],
    "recurrence": [0],
    "reduction": [0],
    "factor": [0],
    "border_channels": [0],
    "norm": ["layer"],
}


@every_head
def test_impossible_values_are_refused_by_name(name: str) -> None:
    for option, values in IMPOSSIBLE.items():
        for value in values if option in heads.config_class(name).model_fields else ():
            with pytest.raises(UsageError, match=option) as caught:
                heads.from_dict({"name": name, option: value})
            assert "\n" not in str(caught.value)


@every_head
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_logits_come_at_any_input_size_or_the_smallest_is_said(name: str, output_stride: int) -> None:
    net = model(name, output_stride=output_stride).eval()
    smallest = set()
    for size in SIZES:
        if refusal := refused(net, images(1, *size)):
            smallest.add(side := smallest_side(refusal))
            assert side > min(size)
            continue
        outputs = net(images(2, *size))
        assert next(iter(outputs)) == "main"
        assert outputs["main"].shape == (2, NUM_CLASSES, *size)
    if smallest:
        (side,) = smallest
        assert refused(net, images(1, side - 1, side + 40))
        assert refused(net, images(1, side + 40, side - 1))
        assert net(images(1, side, side))["main"].shape == (1, NUM_CLASSES, side, side)


def smallest_side(refusal: UsageError) -> int:
    found = re.search(r"at least (\d+) px", refusal.fix)
    assert found, refusal
    return int(found[1])


@every_head
def test_outputs_have_the_same_names_in_training_and_a_weight_each(name: str) -> None:
    net = model(name, channels=None)
    outputs = net.train()(images(2, *CERTAIN))
    training, evaluation = list(outputs), list(net.eval()(images(2, *CERTAIN)))
    own = [output for output in training if output != "aux"]
    assert own[0] == evaluation[0] == "main"
    assert set(evaluation) <= set(own)
    assert set(net.loss_weights()) == set(own) - {"main"}
    assert set(net.border_outputs) <= set(own) - {"main"}
    assert ("aux" in training) == net.head.stage_auxiliary
    assert "aux" not in evaluation
    for output, logits in outputs.items():
        assert logits.shape == (2, 1 if output in net.border_outputs else NUM_CLASSES, *CERTAIN)


@every_head
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gradients_reach_every_parameter(name: str, norm: str) -> None:
    net = model(name, norm=norm).train()
    unfreeze(net)
    outputs = net(images(2, *CERTAIN))
    generator = torch.Generator().manual_seed(3)
    torch.stack([(o * torch.randn(o.shape, generator=generator)).sum() for o in outputs.values()]).sum().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not without
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)


@every_head
def test_group_norm_leaves_no_batch_norm(name: str) -> None:
    net = model(name, norm="group")
    inside = [*net.head.modules(), *(net.auxiliary.modules() if net.auxiliary else [])]
    assert not [m for m in inside if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert segmenter.fingerprint(net) != segmenter.fingerprint(model(name))


@every_head
def test_evaluation_is_deterministic_and_each_image_alone(name: str) -> None:
    net = model(name).eval()
    unfreeze(net)
    x = images(2, *CERTAIN)
    with torch.inference_mode():
        first, again, alone = net(x)["main"], net(x)["main"], net(x[1:])["main"]
    assert torch.equal(first, again)
    torch.testing.assert_close(first[1:], alone, rtol=1e-3, atol=1e-3 * float(first.abs().max()))


@every_head
def test_channels_last_changes_nothing(name: str) -> None:
    net = model(name).eval()
    unfreeze(net)
    x = images(1, *CERTAIN)
    with torch.inference_mode():
        plain = net(x)["main"]
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))["main"]
    torch.testing.assert_close(plain, last, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))


FEEDS_MAIN = {("denoised_nl", "aux2")}  # its prediction also rectifies the attention: eq. 6


def reached(output: Tensor, net: nn.Module) -> set[str]:
    """Name the parameters that this output is computed from."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True, retain_graph=True)
    return {n for n, gradient in zip(names, gradients, strict=True) if gradient is not None}


@every_head
def test_an_auxiliary_loss_of_weight_zero_trains_nothing(name: str) -> None:
    net = model(name).train()
    outputs = net(images(2, *CERTAIN))
    used = {output: reached(logits, net) for output, logits in outputs.items()}
    for output in list(outputs)[1:]:
        alone = used[output].difference(*(names for other, names in used.items() if other != output))
        options = {"aux_weight": 0.0} if output == "aux" else {"weights": {output: 0.0}}
        net.zero_grad()
        criterion(net, **options)(outputs, labels(2, *CERTAIN))["loss"].backward(retain_graph=True)
        trained = {n for n, p in net.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert bool(alone) == ((name, output) not in FEEDS_MAIN)
        assert not alone & trained
        assert any(n.startswith("head.") for n in trained)


@every_head
def test_bf16_autocast_gives_finite_float32_logits_and_gradients(name: str) -> None:
    net = model(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(images(2, *CERTAIN))
    loss = criterion(net)(outputs, labels(2, *CERTAIN))["loss"]
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(o.dtype == torch.float32 and bool(torch.isfinite(o).all()) for o in outputs.values())
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in net.parameters())


@every_head
def test_every_rank_uses_every_parameter_in_every_step(name: str, single_rank: None) -> None:
    """Otherwise DistributedDataParallel, which is not told to look for unused ones, refuses the second step."""
    net = model(name).train()
    loss, ranks = criterion(net), DistributedDataParallel(net)
    for _ in range(2):
        loss(ranks(images(2, *CERTAIN)), labels(2, *CERTAIN))["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())


@every_head
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("output_stride", "size"), [(8, CERTAIN), (32, (33, 33))])
def test_a_batch_of_one_image_trains(name: str, norm: str, output_stride: int, size: tuple[int, int]) -> None:
    net = model(name, norm=norm, output_stride=output_stride).train()
    if refusal := refused(net, images(1, *size)):
        size = (smallest_side(refusal), smallest_side(refusal))
    outputs = net(images(1, *size))
    criterion(net)(outputs, labels(1, *size))["loss"].backward()
    assert all(bool(torch.isfinite(o).all()) for o in outputs.values())
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in net.parameters())


@every_head
def test_cost_is_counted_without_computing(name: str) -> None:
    net = segmenter.skeleton(model(name).config)
    cost = segmenter.describe(net, (3, 128, 128))
    assert cost.macs > 0
    assert cost.head_params == sum(p.numel() for p in model(name).head.parameters())

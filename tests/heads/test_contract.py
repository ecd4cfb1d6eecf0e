"""The heads' contract, over every file in `heads/`."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from rayseg import backbone, heads, losses, segmenter
from rayseg.errors import UsageError
from rayseg.schema import to_dict
from rayseg.segmenter import Segmenter

NUM_CLASSES = 5
SIZES = [(33, 33), (48, 97), (65, 72)]
CERTAIN = (65, 72)  # every head takes this size; smaller ones it may refuse

every_head = pytest.mark.parametrize("name", heads.names())


def model(name: str, *, norm: str = "batch", output_stride: int = 8) -> Segmenter:
    torch.manual_seed(0)
    config = segmenter.Config(
        backbone=backbone.Config.model_validate({"name": "test_resnet", "output_stride": output_stride}),
        head=heads.from_dict({"name": name, "norm": norm}),
        num_classes=NUM_CLASSES,
    )
    return segmenter.build(config)


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


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


@every_head
def test_logits_come_at_input_size_main_first(name: str) -> None:
    net = model(name).eval()
    for height, width in SIZES:
        if (height, width) != CERTAIN and (refusal := refused(net, images(2, height, width))):
            assert "px" in refusal.fix  # says how large it must be
            continue
        outputs = net(images(2, height, width))
        assert next(iter(outputs)) == "main"
        assert outputs["main"].shape == (2, NUM_CLASSES, height, width)
        assert all(o.shape[0] == 2 and o.shape[2:] == (height, width) for o in outputs.values())


@every_head
def test_outputs_have_the_same_names_in_training_and_a_weight_each(name: str) -> None:
    net = model(name)
    training = list(net.train()(images(2, *CERTAIN)))
    evaluation = list(net.eval()(images(2, *CERTAIN)))
    own = [output for output in training if output != "aux"]
    assert own[0] == evaluation[0] == "main"
    assert set(evaluation) <= set(own)
    assert set(net.loss_weights()) == set(own) - {"main"}
    assert ("aux" in training) == net.head.stage_auxiliary
    assert "aux" not in evaluation


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


@every_head
def test_an_auxiliary_loss_of_weight_zero_trains_nothing(name: str) -> None:
    net = model(name).train()
    if net.auxiliary is None:
        pytest.skip("the paper trains it without a stage auxiliary")
    criterion = losses.SegmentationLoss(losses.Config(aux_weight=0.0), ignore_index=255, weights=net.loss_weights())
    outputs = net(images(2, *CERTAIN))
    shared = {n: o for n, o in outputs.items() if o.shape[1] == NUM_CLASSES}  # boundaries have targets of their own
    criterion(shared, torch.randint(NUM_CLASSES, (2, *CERTAIN)))["loss"].backward()
    assert not any(p.grad is not None and bool(p.grad.any()) for p in net.auxiliary.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in net.head.parameters())


@every_head
def test_bf16_autocast_gives_finite_float32_logits_and_gradients(name: str) -> None:
    net = model(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(images(2, *CERTAIN))
    torch.stack([o.square().mean() for o in outputs.values()]).sum().backward()
    assert all(o.dtype == torch.float32 and bool(torch.isfinite(o).all()) for o in outputs.values())
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in net.parameters())


@every_head
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_batch_of_one_image_trains(name: str, norm: str) -> None:
    outputs = model(name, norm=norm).train()(images(1, *CERTAIN))
    assert all(bool(torch.isfinite(o).all()) for o in outputs.values())


@every_head
@pytest.mark.parametrize("output_stride", [16, 32])
def test_other_output_strides(name: str, output_stride: int) -> None:
    net = model(name, output_stride=output_stride).eval()
    side = 9 * output_stride  # as many feature pixels as 65 px have at stride 8
    assert net(images(1, side, side))["main"].shape == (1, NUM_CLASSES, side, side)


@every_head
def test_cost_is_counted_without_computing(name: str) -> None:
    net = segmenter.skeleton(model(name).config)
    cost = segmenter.describe(net, (3, 128, 128))
    assert cost.macs > 0
    assert cost.head_params == sum(p.numel() for p in model(name).head.parameters())

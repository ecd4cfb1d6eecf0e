"""Backbones: features and dilation as the papers have them, weights from files that may be anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from rayseg import backbone
from rayseg.backbone import Backbone, Config, synchronised
from rayseg.errors import CheckpointError, ClusterError, UsageError
from rayseg.schema import parse

TINY = "test_resnet"  # timm's own miniature: BasicBlocks, one a stage


def built(**options: Any) -> Backbone:
    return Backbone(parse(Config, options, "backbone"))


# --- features -------------------------------------------------------------------------------------------------------


SWIN = "swin_tiny_patch4_window7_224"


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        *((TINY, stride) for stride in (8, 16, 32)),
        ("mobilenetv3_small_050", 8),
        *((name, 32) for name in ("test_convnext", "test_efficientnet", "pvt_v2_b0", "densenet121", SWIN)),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 71)])
def test_features_are_as_the_spec_says(name: str, output_stride: int, height: int, width: int) -> None:
    net = built(name=name, output_stride=output_stride).eval()
    features = net(torch.randn(1, 3, height, width))
    assert len(features) == len(net.spec.channels) == len(net.spec.strides) <= backbone.LEVELS
    assert net.spec.strides[0] == 4
    assert net.spec.strides[-1] == output_stride
    for feature, channels, stride in zip(features, *net.spec, strict=True):
        assert feature.shape == (1, channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", SWIN])
def test_every_pixel_counts(name: str) -> None:
    """A ConvNeXt leaves out what fills no patch, a Swin refuses it."""
    net = built(name=name, output_stride=32).eval()
    x = torch.randn(1, 3, 33, 65)
    corner = x.clone()
    corner[..., -1, -1] += 1
    with torch.inference_mode():
        assert not any(torch.equal(a, b) for a, b in zip(net(x), net(corner), strict=True))


@pytest.mark.parametrize("name", ["test_convnext", SWIN])
def test_maps_are_timms_at_multiples_of_the_stride(name: str) -> None:
    net = built(name=name, output_stride=32).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(net(x), net.model(x), strict=True):
            assert torch.equal(ours, theirs.permute(0, 3, 1, 2) if name == SWIN else theirs)


def test_an_image_of_a_size_that_the_model_refuses_is_one_line() -> None:
    """Timm refuses it by an error of torch's; the same on the meta device, where costs are counted."""
    for device in ("cpu", "meta"):
        with torch.device(device):
            net = built(name="efficientformer_l1", output_stride=32)
            with pytest.raises(UsageError, match=r"no images of 64x64 px.*another image size") as caught:
                net(torch.zeros(1, 3, 64, 64))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.distributed.DistBackendError("NCCL error"),
        RuntimeError("Connection closed by peer"),
        ValueError("of something else"),
    ],
)
def test_what_is_not_the_sizes_fault_is_passed_on(error: Exception) -> None:
    net = built(name=TINY)

    def fail(*_: Any) -> None:
        if next(net.parameters()).device.type != "meta":  # the check sees the model without the fault
            raise error

    net.model.layer4.register_forward_pre_hook(fail)
    parameter, training = next(net.parameters()), [m for m in net.modules() if m.training]
    with pytest.raises(type(error), match=str(error)):
        net(torch.zeros(2, 3, 64, 64))
    assert next(net.parameters()) is parameter
    assert [m for m in net.modules() if m.training] == training


def test_an_image_that_fits_no_window_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"divisible by window.*choose another image size"):
        built(name="test_maxvit", output_stride=32).eval()(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(("name", "params"), [("resnet50s", 23_631_808), ("resnet101s", 42_623_936)])
def test_the_deep_stem_is_that_of_the_authors_code(name: str, params: int) -> None:
    """Three 3x3 of 64, 64 and 128 channels, as in GALD's, CCNet's, DFN's and Denoised NL's ResNets."""
    with torch.device("meta"):
        model = built(name=name).model
    assert [tuple(model.conv1[i].weight.shape) for i in (0, 3, 6)] == [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]
    assert sum(p.numel() for p in model.parameters()) == params


@pytest.mark.parametrize(
    ("options", "layer3", "layer4"),
    [
        ({}, [1, 2, 2, 2, 2, 2], [2, 4, 4]),
        ({"dilation_style": "uniform"}, [2] * 6, [4, 4, 4]),
        ({"dilation_style": "uniform", "multi_grid": [1, 2, 4]}, [2] * 6, [4, 8, 16]),
        ({"multi_grid": [1, 2, 4]}, [1, 2, 2, 2, 2, 2], [4, 8, 16]),
        ({"output_stride": 16, "dilation_style": "uniform"}, [1] * 6, [2, 2, 2]),
        ({"output_stride": 16, "multi_grid": [1, 2, 4]}, [1] * 6, [2, 4, 8]),
        ({"output_stride": 32, "multi_grid": [1, 2, 4]}, [1] * 6, [1, 2, 4]),
    ],
)
def test_dilations_are_those_of_the_papers(options: dict[str, Any], layer3: list[int], layer4: list[int]) -> None:
    with torch.device("meta"):
        net = built(name="resnet50s", **options)
        features = net(torch.empty(1, 3, 65, 65))
    for stage, expected in ((net.model.layer3, layer3), (net.model.layer4, layer4)):
        assert [block.conv2.dilation[0] for block in stage] == expected
        assert [block.conv2.padding[0] for block in stage] == expected
    assert features[-1].shape[-1] == -(-65 // net.spec.strides[-1])


def test_the_first_blocks_dilation_is_not_cosmetic() -> None:
    torch.manual_seed(0)
    styles = [built(name="resnet18", dilation_style=style).eval() for style in ("timm", "uniform")]
    for layer in styles[0].modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(layer.weight)  # timm starts each block's last one at 0: an identity
    styles[1].load_state_dict(styles[0].state_dict())
    x = torch.randn(1, 3, 64, 64)
    plain, uniform = (net(x)[-1] for net in styles)
    assert (plain - uniform).norm() > 0.01 * plain.norm()


def test_both_convolutions_of_a_basic_block_are_dilated() -> None:
    net = built(name="resnet18", dilation_style="uniform", multi_grid=[1, 2])
    assert [(b.conv1.dilation[0], b.conv2.dilation[0]) for b in net.model.layer4] == [(4, 4), (8, 8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet19"}, r"unknown backbone 'resnet19'.*did you mean .*resnet1"),
        ({"name": "hf-hub:someone/model"}, "unknown backbone"),
        ({"name": "densenet121", "output_stride": 8}, r"output_stride 8, only 32 .*set it to 32"),
        ({"name": "vgg11", "output_stride": 16}, r"output_stride 16, only 32"),
        ({"name": SWIN, "output_stride": 8}, "only 32"),
        ({"name": "vit_tiny_patch16_224", "output_stride": 8}, "only 16"),
        ({"name": "resnet18", "multi_grid": [1, 2, 4]}, "has 3 numbers.*has 2 blocks"),
        ({"name": "resnet18", "multi_grid": [0, 1]}, "multi_grid"),
        ({"name": "mobilenetv3_small_050", "dilation_style": "uniform"}, "is no ResNet"),
        ({"name": "resnest14d", "multi_grid": [1]}, "not a ResNet's"),
        ({"name": TINY, "output_stride": 32, "dilation_style": "uniform"}, "changes nothing at output_stride 32"),
        ({"name": TINY, "output_stride": 4}, "output_stride = 4"),
        ({"name": TINY, "pretrained": True, "weights": "x.pth"}, "both set"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught, torch.device("meta"):
        built(**options)
    assert len(str(caught.value)) < 400


def test_pretrained_weights_without_a_network_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ClusterError, match=r"cannot fetch .*backbone.weights=FILE"):
        built(name=TINY, pretrained=True)


# --- weights --------------------------------------------------------------------------------------------------------


def whole_model(name: str = TINY) -> dict[str, Tensor]:
    """The tensors of the classification model, classifier included, none at its initial value."""
    torch.manual_seed(3)
    tensors = timm.create_model(name).state_dict()
    return {n: t + 0.01 * torch.rand(t.shape) if t.is_floating_point() else t for n, t in tensors.items()}


def saved(tensors: dict[str, Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        built(**{"name": TINY, "weights": str(path), **options})
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", [TINY, "convnext_atto", "vit_tiny_patch16_224"])
def test_timms_weights_load_whatever_the_extractor_calls_them(tmp_path: Path, name: str, suffix: str) -> None:
    tensors = whole_model(name)
    stride = 16 if name.startswith("vit") else 32
    net = built(name=name, output_stride=stride, weights=saved(tensors, tmp_path / f"w{suffix}"))
    left = {name.replace(".", "_"): t for name, t in tensors.items()}
    for name_inside, tensor in net.model.state_dict().items():
        assert torch.equal(tensor, left[name_inside.removeprefix("model.").replace(".", "_")])


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "model", "module."])
def test_wrappers_of_training_scripts_are_seen_through(tmp_path: Path, wrapped: str) -> None:
    tensors = whole_model()
    content: Any = {wrapped: tensors, "epoch": 3}
    if wrapped == "plain":
        content = tensors
    if wrapped == "module.":
        content = {f"module.{n}": t for n, t in tensors.items()}
    torch.save(content, tmp_path / "w.pth")
    net = built(name=TINY, weights=str(tmp_path / "w.pth"))
    assert torch.equal(net.model.layer4[0].conv2.weight, tensors["layer4.0.conv2.weight"])


def test_torchvisions_weights_give_torchvisions_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).eval()
    ours = built(name="resnet18", output_stride=32, weights=saved(theirs.state_dict(), tmp_path / "w.pth")).eval()
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x := torch.randn(1, 3, 64, 80)))))
    for stage, feature in zip((theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), ours(x), strict=True):
        y = stage(y)
        torch.testing.assert_close(feature, y)


def test_misfits_are_counted_and_the_first_three_named(tmp_path: Path) -> None:
    tensors = whole_model()
    other = {n: t for n, t in tensors.items() if not n.startswith("layer3.0.bn")}
    message = refusal(saved(other, tmp_path / "missing.safetensors"))
    assert "12 weights do not fit: missing layer3.0.bn1.weight; missing layer3.0.bn1.bias; missing" in message
    assert message.count("missing layer") == 3
    message = refusal(saved(tensors | {"decoder.weight": torch.zeros(1)}, tmp_path / "extra.pth"))
    assert "1 weights do not fit: unknown decoder.weight" in message
    wide = tensors | {"layer4.0.conv2.weight": torch.zeros(96, 96, 5, 5)}
    message = refusal(saved(wide, tmp_path / "shape.pth"))
    assert "layer4.0.conv2.weight is 96x96x5x5, not 96x96x3x3" in message
    message = refusal(
        saved(tensors | {"bn1.bias": torch.full_like(tensors["bn1.bias"], torch.nan)}, tmp_path / "n.pth")
    )
    assert "bn1.bias is not finite" in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = whole_model()
    kind = str(dtype).removeprefix("torch.")
    message = refusal(saved(tensors | {"bn1.bias": tensors["bn1.bias"].to(dtype)}, tmp_path / "w.pth"))
    assert f"1 weights do not fit: bn1.bias is {kind}, not float32" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_another_precision_load(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in whole_model().items()}
    net = built(name=TINY, weights=saved(tensors, tmp_path / "w.safetensors"))
    assert torch.equal(net.model.bn1.bias, tensors["bn1.bias"].float())
    tensors["bn1.bias"] = torch.full_like(tensors["bn1.bias"].double(), 1e300)
    assert "bn1.bias is not finite" in refusal(saved(tensors, tmp_path / "large.safetensors"))


def test_another_backbones_weights_are_refused(tmp_path: Path) -> None:
    path = saved(whole_model("resnet10t"), tmp_path / "w.safetensors")
    assert "weights of test_resnet" in refusal(path)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_pickled_code_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"conv1.weight": Payload(marker)}, tmp_path / "w.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Payload(marker)))
    for name in ("w.pth", "bare.pth"):
        message = refusal(tmp_path / name)
        assert "holds more than tensors" in message
        assert "weights_only" not in message  # torch's advice: load it all the same
    assert "it pickles posix.system" in refusal(tmp_path / "w.pth")
    assert not marker.exists()


def test_what_is_no_weights_file_is_refused(tmp_path: Path) -> None:
    good = {suffix: Path(saved(whole_model(), tmp_path / f"good{suffix}")) for suffix in (".pth", ".safetensors")}
    for suffix, path in good.items():
        (cut := tmp_path / f"cut{suffix}").write_bytes(path.read_bytes()[:-1000])
        assert "damaged" in refusal(cut)
        (empty := tmp_path / f"empty{suffix}").touch()
        assert "damaged" in refusal(empty)
        (pointer := tmp_path / f"lfs{suffix}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
        assert "git lfs pull" in refusal(pointer)
    assert "cannot read: No such file" in refusal(tmp_path / "absent.pth")
    assert "cannot read: Is a directory" in refusal(tmp_path)
    (archive := tmp_path / "model.pt2").write_bytes(b"PK")
    assert "unknown kind of file '.pt2'" in refusal(archive)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "not a mapping" in refusal(tmp_path / "list.pth")
    torch.save({"conv1.weight": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    refusal(tmp_path / "sparse.pth")


def test_synchronised_batch_norm_keeps_the_activations() -> None:
    """Timm's own layers hold norm and activation in one; torch's conversion drops the latter without a word."""
    from timm.layers import BatchNormAct2d

    before = Backbone(Config(name="efficientnet_lite0", output_stride=32))
    x = torch.randn(2, 3, 64, 64)
    wanted = [f.detach() for f in before.eval()(x)]
    assert any(isinstance(m, BatchNormAct2d) for m in before.modules())
    after = synchronised(before)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in after.modules())
    assert sum(isinstance(m, torch.nn.SyncBatchNorm) for m in after.modules()) > 10
    for found, feature in zip(after.eval()(x), wanted, strict=True):
        torch.testing.assert_close(found, feature)

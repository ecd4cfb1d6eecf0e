"""Backbones: any timm model with `features_only`, by name. The only importer of timm."""

from __future__ import annotations

import difflib
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from rayseg.errors import CheckpointError, ClusterError, UsageError
from rayseg.schema import Value

LEVELS = 4
"""Heads get the deepest feature maps, at most this many: strides 4, 8, 16, 32 before dilation."""


class FeatureSpec(NamedTuple):
    """What a head reads from a backbone: channels and strides of its feature maps, shallow to deep."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class Config(Value):
    """A timm model and how it is dilated.

    `dilation_style` "timm" leaves the first block of a dilated stage at the rate before it (1,2,2 and 2,4,4 at
    stride 8), "uniform" is PSPNet's and GALD's (2,2,2 and 4,4,4). `multi_grid` multiplies the last stage's rate, one
    factor a block. `weights` is a .safetensors or .pth file, `pretrained` asks timm's hub.
    """

    name: str = "resnet18"
    output_stride: Literal[8, 16, 32] = 8
    pretrained: bool = False
    weights: str | None = None
    multi_grid: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    dilation_style: Literal["timm", "uniform"] = "timm"

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise UsageError("pretrained and weights are both set", "backbone", "keep one of them")
        if self.dilation_style == "uniform" and self.output_stride == 32:
            raise UsageError(
                "dilation_style = uniform changes nothing at output_stride 32, where no stage is dilated",
                "backbone.dilation_style",
                "drop it, or set output_stride to 8 or 16",
            )
        return self


class Backbone(nn.Module):
    """Images (B,3,H,W) to feature maps (B, C_i, ceil(H/s_i), ceil(W/s_i)), shallow to deep, as `spec` says.

    Models that would leave out, or refuse, what fills no patch see the image padded to a multiple of the stride.
    """

    spec: FeatureSpec

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.name = config.name
        model = _create(config)
        info = model.feature_info
        self.spec = FeatureSpec(tuple(info.channels()[-LEVELS:]), tuple(info.reduction()[-LEVELS:]))
        # Swin and its kind give (B,H,W,C).
        self.channels_come_last = str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
        self.padded = not _covers_any_size(model, config)
        _dilate(model, config)
        if config.weights is not None:
            load_weights(model, config)
        self.model = model

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps.

        Raises:
            UsageError: the model does not take images of this size.
        """
        height, width = int(images.shape[-2]), int(images.shape[-1])
        if self.padded:
            stride = self.spec.strides[-1]
            images = functional.pad(images, (0, -width % stride, 0, -height % stride))
        try:
            maps = self.model(images)[-LEVELS:]
        except (AssertionError, RuntimeError, ValueError) as error:  # timm's word is "not a multiple of the window"
            if not isinstance(error, AssertionError) and not _refuses(self.model, images.shape):
                raise
            what = f"it takes no images of {height}x{width} px: {(str(error) or type(error).__name__).splitlines()[0]}"
            raise UsageError(what, f"backbone.name = {self.name}", "choose another image size") from None
        if self.channels_come_last:
            maps = [x.permute(0, 3, 1, 2).contiguous() for x in maps]
        if self.padded:  # what lies beyond the image is cut off
            pairs = zip(maps, self.spec.strides, strict=True)
            maps = [x[..., : -(-height // stride), : -(-width // stride)] for x, stride in pairs]
        return maps


# --- building -------------------------------------------------------------------------------------------------------


def _create(config: Config) -> Any:
    import timm  # here, because it takes seconds: a config is read without it

    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=5, cutoff=0.4)
        fix = f"did you mean {', '.join(near)}?" if near else "choose one of timm.list_models()"
        raise UsageError(f"unknown backbone '{config.name}'", "backbone.name", fix)
    # Models with a stride of their own take no `output_stride`; transformers take any image size only when told.
    for options in ({"output_stride": config.output_stride}, {"dynamic_img_size": True}, {}):
        try:
            model: Any = timm.create_model(config.name, features_only=True, pretrained=config.pretrained, **options)
            break
        except (TypeError, AssertionError):
            continue
        except Exception as error:
            raise _creation_fault(config, error) from error
    else:
        raise UsageError("it has no feature maps", f"backbone.name = {config.name}", "choose another, e.g. resnet50")
    stride = model.feature_info.reduction()[-1]
    if stride != config.output_stride:
        raise UsageError(
            f"{config.name} cannot have output_stride {config.output_stride}, only {stride}",
            "backbone.output_stride",
            f"set it to {stride}, or choose another backbone",
        )
    return model


_COVERS: dict[tuple[str, int], bool] = {}  # by model and stride: to find out takes longer than to build a small one


def _covers_any_size(model: Any, config: Config) -> bool:
    """Whether maps reach the last pixel of an image whose size is no multiple of the stride; nothing is computed.

    ConvNeXt's and DenseNet's end before it; Swin and HRNet refuse such an image.
    """
    key = (config.name, config.output_stride)
    if key not in _COVERS:
        shape = (2, 3, 2 * config.output_stride + 1, 2 * config.output_stride + 1)
        tensors = {n: t.to("meta") for n, t in (*model.named_parameters(), *model.named_buffers())}
        try:
            with torch.no_grad():
                maps = functional_call(model, tensors, torch.empty(shape, device="meta"))
            # The third size is a side, whether channels come second or last.
            _COVERS[key] = [x.shape[2] for x in maps] == [-(-shape[2] // s) for s in model.feature_info.reduction()]
        except (AssertionError, RuntimeError):
            _COVERS[key] = False
    return _COVERS[key]


def _refuses(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether images of this shape do not fit the model; nothing is computed.

    So memory that is short, a device or another process that failed have no part in the answer.
    """
    tensors = {n: t.to("meta") for n, t in (*model.named_parameters(), *model.named_buffers())}
    dtype = next(t.dtype for t in tensors.values() if t.is_floating_point())
    training = [module for module in model.modules() if module.training]
    model.eval()  # in training, batch norm may ask other processes, or for a larger batch
    try:
        with torch.no_grad():
            functional_call(model, tensors, torch.empty(tuple(shape), device="meta", dtype=dtype))
    except NotImplementedError:  # this device does not know a layer: nothing is learnt about the size
        return False
    except (AssertionError, RuntimeError, ValueError):
        return True
    finally:
        for module in training:
            module.training = True
    return False


def _creation_fault(config: Config, error: Exception) -> Exception:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, OSError):
        fix = "go online once, or give backbone.weights=FILE, or set backbone.pretrained=false"
        return ClusterError(f"cannot fetch the pretrained weights: {reason}", f"backbone.name = {config.name}", fix)
    return UsageError(f"timm refuses: {reason}", f"backbone.name = {config.name}", "choose another, e.g. resnet50")


def set_dilation(stage: nn.Module, dilations: Sequence[int]) -> None:
    """Set the dilation (and 'same' padding) of the 3x3 convolutions of a ResNet-like stage, one number a block.

    Raises:
        UsageError: the blocks are not a ResNet's, or there are not as many as numbers.
    """
    blocks = list(stage.children())
    spatial = [_spatial_convolutions(block) for block in blocks]
    if not all(spatial):
        fix = "choose a resnet, or set dilation_style=timm without multi_grid"
        raise UsageError("the backbone's blocks are not a ResNet's", "backbone.dilation_style, multi_grid", fix)
    if len(blocks) != len(dilations):
        fix = f"give {len(blocks)} numbers: the last stage has {len(blocks)} blocks"
        raise UsageError(f"multi_grid has {len(dilations)} numbers", "backbone.multi_grid", fix)
    for convolutions, dilation in zip(spatial, dilations, strict=True):
        for convolution in convolutions:
            convolution.dilation = convolution.padding = (dilation, dilation)


def _spatial_convolutions(block: nn.Module) -> list[nn.Conv2d]:
    """Find conv1 and conv2 where they are plain 3x3: both in a BasicBlock, conv2 in a Bottleneck."""
    inside = [layer for name, layer in block.named_children() if name in ("conv1", "conv2")]
    return [layer for layer in inside if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]


def _dilate(model: Any, config: Config) -> None:
    """Apply `dilation_style` and `multi_grid` to layer3 (stride 16 undilated) and layer4 (stride 32)."""
    if config.dilation_style == "timm" and config.multi_grid is None:
        return
    if not hasattr(model, "layer4"):
        fix = "choose a resnet, or set dilation_style=timm without multi_grid"
        raise UsageError(f"{config.name} is no ResNet", "backbone.dilation_style, multi_grid", fix)
    if config.dilation_style == "uniform":
        for stage, stride in ((model.layer3, 16), (model.layer4, 32)):
            if (rate := stride // config.output_stride) > 1:
                set_dilation(stage, [rate] * len(stage))
    if config.multi_grid is not None:
        set_dilation(model.layer4, [32 // config.output_stride * factor for factor in config.multi_grid])


# --- weights from a file --------------------------------------------------------------------------------------------


def load_weights(model: nn.Module, config: Config) -> None:
    """Load `config.weights` into the feature extractor, strictly; the layers that timm cuts off may be there too.

    Names are timm's own, which for ResNets are torchvision's.

    Raises:
        CheckpointError: the file is unreadable or holds more than tensors, or names, shapes, types or values do not
            fit; any floating-point type does for another.
    """
    path = Path(config.weights or "")
    found = {_plain(name): (name, tensor) for name, tensor in read_tensors(path).items()}
    wanted = {_plain(name): (name, tensor) for name, tensor in model.state_dict().items()}
    cut_off = _whole_model_names(config.name)
    optional = "num_batches_tracked"  # torch before 0.4.1 did not save it
    faults = [f"missing {n}" for key, (n, _) in wanted.items() if key not in found and not n.endswith(optional)]
    faults += [f"unknown {name}" for key, (name, _) in found.items() if key not in wanted and key not in cut_off]
    pairs = [(wanted[key], found[key]) for key in wanted if key in found]
    faults += [
        f"{name} is {_shape(got)}, not {_shape(want)}" for (name, want), (_, got) in pairs if got.shape != want.shape
    ]
    fitting = [(name, want, got) for (name, want), (_, got) in pairs if _same_kind(want, got)]
    faults += [f"{n} is {_type(got)}, not {_type(want)}" for (n, want), (_, got) in pairs if not _same_kind(want, got)]
    faults += [f"{name} is not finite" for name, want, got in fitting if not bool(torch.isfinite(got.to(want)).all())]
    if faults:
        first = "; ".join(faults[:3])
        fix = f"give weights of {config.name}, or name the backbone that they belong to"
        raise CheckpointError(f"{len(faults)} weights do not fit: {first}", path, fix)
    with torch.no_grad():
        for (_, want), (_, got) in pairs:
            want.copy_(got)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read names and tensors from a .safetensors file, or from a .pth file without running what it pickles.

    Raises:
        CheckpointError: no such file, a Git LFS pointer, cut off, or something else than dense tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"cannot read: {error.strerror}", path, "give a .safetensors or .pth file") from None
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("a Git LFS pointer, not the weights", path, "fetch the file with `git lfs pull`")
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise CheckpointError(f"unknown kind of file '{path.suffix}'", path, "give a .safetensors or .pth file")
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _read_pickled(path)
    except CheckpointError:
        raise
    except Exception as error:  # safetensors, zipfile, unpickling: each has its own kinds
        fix = "fetch it again, or convert it to .safetensors; pickled code is never run"
        raise CheckpointError(f"damaged, or holds more than tensors: {_reason(error)}", path, fix) from None
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if not isinstance(error, pickle.UnpicklingError):
        return text.splitlines()[0][:200]
    # Torch's own words advise to load it all the same.
    found = re.search(r"GLOBAL ([\w.]+)", text)
    return f"it pickles {found[1]}" if found else "it is no archive of tensors"


def _read_pickled(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols: what is refused is refused in one line
        content = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    dense = isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(t, Tensor) and t.layout == torch.strided for name, t in content.items()
    )
    if not dense:
        raise CheckpointError("not a mapping of names to dense tensors", path, "save `model.state_dict()`")
    return dict(content)


def _whole_model_names(name: str) -> set[str]:
    import timm

    with torch.device("meta"):
        return {_plain(key) for key in timm.create_model(name).state_dict()}


def _plain(name: str) -> str:
    """Undo how timm's feature extractors rename modules: `stages.0` becomes `stages_0` or `model.stages.0`."""
    return name.removeprefix("model.").replace(".", "_")


def _same_kind(want: Tensor, got: Tensor) -> bool:
    """Whether numbers of one type do for the other's: a count may be averaged, but weights are no whole numbers."""
    return got.is_floating_point() or not (want.is_floating_point() or got.is_complex() or got.is_quantized)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def synchronised(model: nn.Module) -> nn.Module:
    """Replace every batch norm by one over all ranks. Timm's conversion keeps the activation its own layers hold."""
    from timm.layers import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(model)
    return converted

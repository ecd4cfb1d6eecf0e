"""What a head makes of features that are mirrored, transposed or moved, where sides and places should not matter.

Only the head is asked, on random features: the backbones' own poolings and strides are not symmetric at every size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from test_contract import NUM_CLASSES, every_head, unfreeze
from torch import Tensor

from rayseg import heads, segmenter
from rayseg.backbone import FeatureSpec

SPEC = FeatureSpec((8, 12, 16, 24), (16, 32, 32, 32))
CELLS = [32 // stride for stride in SPEC.strides]  # a side of a stride-32 pixel
PATCH = 8

MOVES = {"dgcw": (48, 4), "denoised_nl": (49, 2)}
"""Side of the map and least move, in its pixels, of heads that compute at a lower resolution; of others 48 and 1."""
BOUND = {
    "cgnl": "resizes from a map of another span",
    "psp": "pools the cells of a grid",
    "dranet": "pools the cells of a grid",
}
"""Heads whose result depends on the place."""


def head(name: str) -> heads.SegmentationHead:
    torch.manual_seed(0)
    given = {"channels": 16} if "channels" in heads.config_class(name).model_fields else {}
    net = heads.build(heads.from_dict({"name": name, **given}), SPEC, NUM_CLASSES)
    unfreeze(net.apply(segmenter.initialise))
    return net.eval().double()


def random_features(height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    sizes = [(1, c, cells * height, cells * width) for c, cells in zip(SPEC.channels, CELLS, strict=True)]
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


# --- mirrors --------------------------------------------------------------------------------------------------------

Symmetry = Callable[[Tensor], Tensor]


def mirrored(net: heads.SegmentationHead, symmetry: Symmetry) -> heads.SegmentationHead:
    """Apply a symmetry of the plane to every kernel."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.dim() == 4:
                parameter.copy_(symmetry(parameter).clone())
    return other


@every_head
@pytest.mark.parametrize(
    "symmetry",
    [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2)],
    ids=["left-right", "up-down", "transposed"],
)
def test_a_mirrored_head_sees_mirrored_features_mirrored(name: str, symmetry: Symmetry) -> None:
    """A mistaken axis, padding or offset would show. Strided convolutions are symmetric on odd sides."""
    net, features = head(name), random_features(17, 9)
    with torch.inference_mode():
        expected = symmetry(net(features)["main"])
        found = mirrored(net, symmetry)([symmetry(x) for x in features])["main"]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


# --- moves ----------------------------------------------------------------------------------------------------------


def something_at(offset: int, side: int) -> list[Tensor]:
    """Give features that are 0 but for a patch away from the borders."""
    features = []
    for patch, cells in zip(random_features(PATCH, PATCH), CELLS, strict=True):
        x = torch.zeros(1, patch.shape[1], side * cells, side * cells, dtype=torch.float64)
        inside = slice(cells * offset, cells * (offset + PATCH))
        x[:, :, inside, inside] = patch
        features.append(x)
    return features


def moved(name: str, side: int, move: int) -> float:
    """Say by how much the logits around the patch differ, in their deviations, where the patch lies elsewhere."""
    net, start = head(name), (side - PATCH) // 2
    with torch.inference_mode():
        here, there = (net(something_at(offset, side))["main"] for offset in (start, start + move))
    cells = here.shape[-1] // side
    around, beside = (slice(cells * (start - 4 + k), cells * (start + PATCH + 4 + k)) for k in (0, move))
    seen = here[:, :, around, around]
    return float((there[:, :, beside, beside] - seen).abs().max() / seen.std())


@every_head
def test_logits_move_with_what_they_are_of(name: str) -> None:
    """Sums over all pixels do not see where a pixel is, so that heads with global context move things too."""
    side, move = MOVES.get(name, (48, 1))
    if name in BOUND:
        assert moved(name, side, move) > 1e-6
    else:
        assert moved(name, side, move) < 1e-12
        assert move == 1 or moved(name, side, 1) > 1e-3

"""Border targets against loops over pixels, and against Canny's operator on CamVid's label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from rayseg.borders import border_targets, dilate
from rayseg.errors import UsageError

IGNORE = 255
MAPS = sorted((Path(__file__).parents[2] / "shared/camvid/valannot").glob("*.png"))
needs_camvid = pytest.mark.skipif(not MAPS, reason="CamVid's label maps are not there")


def labels(*shape: int, seed: int = 0, ignored: float = 0.15) -> Tensor:
    """Blocks of a few classes, some pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(4, (shape[0], -(-shape[1] // 4), -(-shape[2] // 4)), generator=generator)
    whole = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : shape[1], : shape[2]].clone()
    whole[torch.rand(whole.shape, generator=generator) < ignored] = IGNORE
    return whole


def by_loops(maps: Tensor, width: int, *, legacy_ignore: bool = False) -> tuple[np.ndarray, np.ndarray]:
    found, valid = np.zeros(maps.shape, bool), np.ones(maps.shape, bool)
    for b, y, x in np.ndindex(*maps.shape):
        here = int(maps[b, y, x])
        valid[b, y, x] = legacy_ignore or here != IGNORE
        for other_y, other_x in ((y, x + 1), (y + 1, x)):
            if other_y == maps.shape[1] or other_x == maps.shape[2]:
                continue
            pair = [here, int(maps[b, other_y, other_x])]
            if legacy_ignore:
                pair = [0 if label == IGNORE else label for label in pair]
            if pair[0] != pair[1] and IGNORE not in pair:
                r = width // 2
                found[b, max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1] = True
    return found, valid


@pytest.mark.parametrize("legacy_ignore", [False, True])
@pytest.mark.parametrize("width", [1, 3, 5, 7, 9, 13])
@pytest.mark.parametrize("shape", [(2, 17, 23), (1, 1, 9), (1, 9, 1), (1, 1, 1), (1, 4, 5)])
def test_borders_equal_loops(shape: tuple[int, ...], width: int, legacy_ignore: bool) -> None:
    maps = labels(*shape, seed=width)
    border, valid = border_targets(maps, ignore_index=IGNORE, width=width, legacy_ignore=legacy_ignore)
    expected, counted = by_loops(maps, width, legacy_ignore=legacy_ignore)
    assert border.dtype == valid.dtype == torch.bool
    np.testing.assert_array_equal(border.numpy(), expected)
    np.testing.assert_array_equal(valid.numpy(), counted)


def test_the_default_is_seven_pixels_wide_and_leaves_ignored_pixels_out() -> None:
    maps = labels(2, 90, 90, ignored=0.02).repeat_interleave(3, 1)
    maps = maps.repeat_interleave(3, 2)[:, :90, :90]
    border, valid = border_targets(maps, ignore_index=IGNORE)
    expected, counted = by_loops(maps, 7)
    np.testing.assert_array_equal(border.numpy(), expected)
    np.testing.assert_array_equal(valid.numpy(), counted)
    assert 0.2 < border.float().mean().item() < 0.9


def test_a_region_of_ignored_pixels_makes_no_border_of_its_own() -> None:
    maps = torch.full((1, 20, 20), 3)
    maps[:, 5:15, 5:15] = IGNORE
    for edges in ("change", "canny"):
        border, valid = border_targets(maps, ignore_index=IGNORE, edges=edges)
        assert not border.any()
        assert torch.equal(valid, maps != IGNORE)
        border, valid = border_targets(maps, ignore_index=IGNORE, edges=edges, legacy_ignore=True)
        assert border.any()
        assert valid.all()


def test_classes_may_be_renumbered() -> None:
    maps = labels(3, 25, 31)
    renamed = torch.where(maps == IGNORE, IGNORE, torch.tensor([7, 100, 3, 2])[maps.clamp(max=3)])
    assert torch.equal(*(border_targets(m, ignore_index=IGNORE).border for m in (maps, renamed)))


@pytest.mark.parametrize("width", [1, 3, 5, 7, 11, 21])
@pytest.mark.parametrize("shape", [(1, 30, 41), (2, 3, 4), (1, 1, 50)])
def test_dilation_is_opencvs(width: int, shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.02
    square = np.ones((width, width), np.uint8)
    expected = np.stack([cv2.dilate(m.astype(np.uint8), square) for m in mask.numpy()])
    np.testing.assert_array_equal(dilate(mask, width).numpy(), expected > 0)


@pytest.mark.parametrize(
    ("options", "label", "message"), [({"width": 4}, 1, "width = 4"), ({"edges": "canny"}, 300, "label 300")]
)
def test_misuse_is_said(options: dict[str, Any], label: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        border_targets(torch.full((1, 9, 9), label), ignore_index=IGNORE, **options)


# --- CamVid ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def camvid() -> Tensor:
    return torch.from_numpy(np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in MAPS]))


def share(a: Tensor, b: Tensor) -> float:
    return ((a & b).sum() / (a | b).sum()).item()


@needs_camvid
def test_label_changes_are_nearly_cannys_borders(camvid: Tensor) -> None:
    """The author's borders are OpenCV's Canny on the labels, void as a class here, thickened to 7 pixels."""
    square = np.ones((7, 7), np.uint8)
    reference = torch.from_numpy(
        np.stack([cv2.dilate(cv2.Canny(m, 5, 5, apertureSize=7), square) for m in camvid.numpy()]) > 0
    )
    ours = border_targets(camvid, ignore_index=IGNORE).border
    assert share(ours, reference) == pytest.approx(0.924, abs=5e-4)
    assert (ours.sum() / reference.sum()).item() == pytest.approx(1.008, abs=5e-4)
    # Marked on the other side of each change, half a pixel the other way from Canny's, the share is 0.905.
    turned = border_targets(camvid.rot90(2, (1, 2)), ignore_index=IGNORE).border.rot90(2, (1, 2))
    assert share(turned, reference) == pytest.approx(0.905, abs=5e-4)
    literal = border_targets(camvid, ignore_index=IGNORE, edges="canny", legacy_ignore=True).border
    assert torch.equal(literal, reference)


@needs_camvid
def test_void_borders_no_class_whichever_the_edges(camvid: Tensor) -> None:
    """With void (11) ignored, nearly all that remains of Canny's borders lies where classes meet."""
    change, canny = (border_targets(camvid, ignore_index=11, edges=edges) for edges in ("change", "canny"))
    assert torch.equal(change.valid, canny.valid)
    found = canny.border & canny.valid
    stray = (found & ~dilate(change.border, 7)).sum() / found.sum()
    assert stray.item() < 0.01  # 0.054 where Canny's steps to and from void are kept
    assert share(change.border & change.valid, found) > 0.89

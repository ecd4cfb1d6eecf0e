"""Figures: what was drawn is read back from the PNG's pixels."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from rayseg import figures

LEFT, RIGHT = ((10, 200, 30), (30, 60, 250))
BRIGHTEST, DARKEST, FRAME = (253, 231, 36), (68, 1, 84), (213, 94, 0)  # viridis' ends; the best cell's frame


def read(path):
    assert path.stat().st_size < 300_000
    return cv2.imread(str(path))[..., ::-1]


def where(pixels, color, off=2):
    return (np.abs(pixels.astype(int) - color) <= off).all(axis=-1)


def test_mask_to_rgb_is_exact():
    mask = np.array([[0, 1, 7], [1, 5, 0]], np.uint8)
    rgb = figures.mask_to_rgb(mask, [LEFT, RIGHT], 7)
    assert rgb.dtype == np.uint8
    assert rgb.tolist() == [[[*LEFT], [*RIGHT], [0, 0, 0]], [[*RIGHT], [255, 0, 255], [*LEFT]]]


def heat(values, path, **more):
    rows, columns = [str(r) for r in range(len(values))], [str(c) for c in range(len(values[0]))]
    figures.heat_map(values, rows, columns, path, row_name="kernel_size", column_name="dilation", **more)
    return read(path)


def test_heat_map_frames_the_best_and_leaves_gaps_grey(tmp_path):
    values = np.array([[0.4, np.nan, 0.5], [0.45, 0.7, np.nan]])
    pixels = heat(values, tmp_path / "h.png", title="sweep", trials=[[1, 0, 2], [3, 1, 0]])
    frame = np.argwhere(where(pixels, FRAME))
    (top, left), (bottom, right) = frame.min(axis=0), frame.max(axis=0)
    framed = pixels[top:bottom, left:right]
    assert where(framed, BRIGHTEST).mean() > 0.7
    assert not where(framed, DARKEST).any()
    grey = np.argwhere(where(pixels, (237, 237, 237)))
    assert len(grey) > 1.5 * framed.shape[0] * framed.shape[1]
    darkest = np.argwhere(where(pixels[:, : right + 200], DARKEST) & (np.arange(pixels.shape[1])[: right + 200] < left))
    assert darkest[:, 0].max() < top, "the lowest value stands in the first row, left of the best"


@pytest.mark.parametrize(
    ("values", "framed"),
    [([[0.3, 0.5]], True), ([[0.3], [0.2], [0.1]], True), ([[0.6]], True), ([[np.nan, np.nan]], False)],
)
def test_heat_map_of_any_shape(tmp_path, values, framed):
    assert where(heat(values, tmp_path / "h.png"), FRAME).any() == framed


def rgb(color):
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def test_curves_colour_the_best_and_grey_the_rest(tmp_path):
    steps = range(0, 100, 10)
    series = {f"trial {i}": [(s, s / 100 + i / 20) for s in steps] for i in range(10)}
    figures.curves(series, tmp_path / "c.png", title="sweep")
    pixels = read(tmp_path / "c.png")
    heights = [np.argwhere(where(pixels[:, 100:500], rgb(color), 8))[:, 0].mean() for color in figures.LINES]
    assert heights == sorted(heights), "the first colour is the highest line"
    assert where(pixels[:, 100:500], (204, 204, 204), 4).sum() > 200


def test_curves_take_gaps_and_empty_series(tmp_path):
    series = {"a": [(0, 0.1), (1, 0.2)], "none": [], "broken": [(0, 0.1), (1, float("nan"))]}
    figures.curves(series, tmp_path / "c.png")
    pixels = read(tmp_path / "c.png")
    assert where(pixels, rgb(figures.LINES[0]), 8).any()
    assert not where(pixels[:, :500], rgb(figures.LINES[2]), 8).any()
    figures.curves({}, tmp_path / "empty.png")


def test_a_files_bytes_depend_on_its_content_alone(tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for file in files:
        heat([[0.1, 0.2]], file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_nothing_is_loaded_before_drawing_and_no_figure_stays(tmp_path):
    program = f"""
import sys
from pathlib import Path
from rayseg import figures
assert "matplotlib" not in sys.modules
figures.curves({{"a": [(0, 1), (1, 2)]}}, Path({str(tmp_path / "c.png")!r}))
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)


def test_panels_name_and_colour_a_trial_alike_by_the_first_figure(tmp_path):
    up = {f"trial {i}": [(s, s / 100 + i / 20) for s in range(0, 100, 10)] for i in range(10)}
    down = {name: [(step, 1 - value) for step, value in points] for name, points in up.items() if name != "trial 9"}
    figures.curve_panels({"mIoU": up, "loss": down}, tmp_path / "c.png")
    pixels = read(tmp_path / "c.png")[:, 100:500]
    half = len(pixels) // 2
    first, *others = [np.argwhere(where(pixels, rgb(color), 8))[:, 0] for color in figures.LINES[:-1]]
    assert first.max() < half, "the best has no points below"
    above, below = zip(*[(rows[rows < half].mean(), rows[rows > half].mean()) for rows in others], strict=True)
    assert list(above) == sorted(above)
    assert list(below) == sorted(below, reverse=True)

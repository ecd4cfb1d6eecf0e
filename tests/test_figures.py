"""Figures: what was drawn is read back from the PNG's pixels."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from rayseg import figures
from rayseg.data import card as cards

CARD = cards.from_dict(
    {
        "name": "two",
        "title": "two classes",
        "licence": "none",
        "home": "here",
        "ignore_index": 7,
        "classes": [{"name": "left", "color": [10, 200, 30]}, {"name": "right", "color": [30, 60, 250]}],
        "splits": {"val": {"count": 1}},
        "generated": {"seed": 0, "height": 16, "width": 16},
    }
)
LEFT, RIGHT = ((10, 200, 30), (30, 60, 250))
BRIGHTEST, DARKEST, FRAME = (253, 231, 36), (68, 1, 84), (213, 94, 0)  # viridis' ends; the best cell's frame


def read(path):
    assert path.stat().st_size < 300_000
    return cv2.imread(str(path))[..., ::-1]


def where(pixels, color, off=2):
    return (np.abs(pixels.astype(int) - color) <= off).all(axis=-1)


def runs(row, colors, at_least=8):
    """The order in which the colours stand in a row of pixels, short runs left out."""
    found = []
    for x in range(0, len(row) - at_least):
        for color in colors:
            whole = where(row[x : x + at_least], color).all()
            if whole and (not found or found[-1] != color):
                found.append(color)
    return found


def halves(height=60, width=80):
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 1
    return mask


def test_mask_to_rgb_is_exact():
    mask = np.array([[0, 1, 7], [1, 5, 0]], np.uint8)
    rgb = figures.mask_to_rgb(mask, [LEFT, RIGHT], 7)
    assert rgb.dtype == np.uint8
    assert rgb.tolist() == [[[*LEFT], [*RIGHT], [0, 0, 0]], [[*RIGHT], [255, 0, 255], [*LEFT]]]


def test_predictions_show_image_truth_prediction_and_errors(tmp_path):
    truth, found = halves(), halves()
    truth[:, :20], found[:, 60:] = 7, 0
    image = np.full((60, 80, 3), (90, 90, 60), np.uint8)
    figures.predictions([image], [truth], [found], CARD, tmp_path / "p.png", titles=["val-0"], title="step 3")
    pixels = read(tmp_path / "p.png")
    row = np.flatnonzero(where(pixels, (90, 90, 60)).sum(axis=1) > 50).mean().astype(int)
    colors = [(90, 90, 60), (0, 0, 0), LEFT, RIGHT, figures.RIGHT, figures.WRONG, figures.IGNORED]
    assert runs(pixels[row], colors) == [
        (90, 90, 60),
        *((0, 0, 0), LEFT, RIGHT),
        *(LEFT, RIGHT, LEFT),
        *(figures.IGNORED, figures.RIGHT, figures.WRONG),
    ]


def test_predictions_draw_a_row_for_each_sample(tmp_path):
    image, mask = np.full((60, 80, 3), (90, 90, 60), np.uint8), halves()
    figures.predictions([image] * 3, [mask] * 3, [mask] * 3, CARD, tmp_path / "p.png")
    column = where(read(tmp_path / "p.png"), (90, 90, 60))[:, 100]
    assert np.count_nonzero(np.diff(column.astype(int)) == 1) == 3


def test_confusion_matrix_of_a_perfect_prediction_is_its_diagonal(tmp_path):
    names = [f"class {i}" for i in range(19)]
    figures.confusion_matrix(np.diag(np.arange(1, 20)), names, tmp_path / "c.png", title="perfect")
    pixels = read(tmp_path / "c.png")
    rows, columns = np.nonzero(where(pixels, BRIGHTEST))
    slope = np.polyfit(columns, rows, 1)[0]
    assert np.corrcoef(columns, rows)[0, 1] > 0.99
    assert slope > 0
    assert where(pixels, DARKEST).sum() > 10 * len(rows)


def test_confusion_matrix_leaves_the_row_of_an_absent_class_empty(tmp_path):
    figures.confusion_matrix(np.diag([5, 0, 9]), ["a", "b", "c"], tmp_path / "c.png")
    pixels = read(tmp_path / "c.png")
    middle = np.nonzero(where(pixels, BRIGHTEST))[1].mean().astype(int)
    white = (255, 255, 255)
    assert runs(pixels[:, middle], [DARKEST, white]) == [white, DARKEST, white, DARKEST, white]


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

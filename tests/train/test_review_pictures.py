"""A run's pictures and tables: what was drawn is read back from the pixels, what was written against plain sums."""

import csv
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rayseg import figures
from rayseg.data import card as cards
from rayseg.data.reader import Sample
from rayseg.metrics import BoundaryScores, ConfusionMatrix, PerImage
from rayseg.train import charts, paint, sheets, tables
from rayseg.train.evaluate import Evaluation

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
LEFT, RIGHT, GREY = (10, 200, 30), (30, 60, 250), (90, 90, 60)
BRIGHTEST, DARKEST, WHITE = (253, 231, 36), (68, 1, 84), (255, 255, 255)  # viridis' ends


def read(path):
    return cv2.imread(str(path))[..., ::-1]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def where(pixels, color, off=2):
    return (np.abs(pixels.astype(int) - color) <= off).all(axis=-1)


def runs(row, colors, *, off=2, at_least=8):
    """The order in which the colours stand in a row of pixels, short runs left out."""
    found = []
    for x in range(0, len(row) - at_least):
        for color in colors:
            if where(row[x : x + at_least], color, off).all() and (not found or found[-1] != color):
                found.append(color)
    return found


def halves(height=60, width=80):
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 1
    return mask


def shards_of(*samples):
    """A split of these samples, as far as a sheet reads one."""
    of_card = {"card": CARD, "class_names": CARD.class_names, "num_classes": 2, "ignore_index": 7}
    return SimpleNamespace(read=lambda position: samples[position], **of_card)


def test_a_row_shows_image_truth_prediction_and_errors(tmp_path):
    truth, found = halves(), halves()
    truth[:, :20], found[:, 60:] = 7, 0
    sample = Sample("val-0", np.full((60, 80, 3), GREY, np.uint8), truth)
    sheets.draw(tmp_path, shards_of(sample), {0: found}, "step 3")
    pixels = read(tmp_path / "hardest.jpg")
    row = np.flatnonzero(where(pixels, GREY, 12).sum(axis=1) > 200).mean().astype(int)
    colors = [GREY, (0, 0, 0), LEFT, RIGHT, figures.RIGHT, figures.WRONG, figures.IGNORED]
    assert runs(pixels[row], colors, off=12) == [
        GREY,
        *((0, 0, 0), LEFT, RIGHT),
        *(LEFT, RIGHT, LEFT),
        *(figures.IGNORED, figures.RIGHT, figures.WRONG),
    ]


def test_errors_at_known_pixels():
    truth, found = np.zeros((40, 80), np.uint8), np.zeros((40, 80), np.uint8)
    found[:20, :40], truth[20:, :40] = 1, 7
    found[20:, :20] = 1  # not counted all the same
    found[:, 60::2] = 1  # every second column
    small = sheets.errors(truth, found, 7, (20, 40))
    assert small[:10, :20].tolist() == np.full((10, 20, 3), figures.WRONG).tolist()
    assert small[10:, :20].tolist() == np.full((10, 20, 3), figures.IGNORED).tolist()
    assert small[:, 20:30].tolist() == np.full((20, 10, 3), figures.RIGHT).tolist()
    half = (np.array(figures.RIGHT) + figures.WRONG) / 2
    assert np.abs(small[:, 30:] - half).max() <= 1.5, "half of the pixels wrong is half red"


def test_a_sheet_of_noise_is_no_larger_than_a_page_takes(tmp_path):
    rng = np.random.default_rng(0)
    noisy = [
        Sample(f"k{i}", rng.integers(0, 256, (360, 480, 3), np.uint8), rng.integers(0, 2, (360, 480)).astype(np.uint8))
        for i in range(16)
    ]
    masks = {i: 1 - sample.mask for i, sample in enumerate(noisy)}
    sheets.draw(tmp_path, shards_of(*noisy), masks, "noise")
    assert paint.LIMIT == 2 * 2**20
    assert 10_000 < (tmp_path / "hardest.jpg").stat().st_size <= paint.LIMIT
    assert read(tmp_path / "hardest.jpg").shape[1] < 1100


def test_a_sheets_list_has_each_images_miou(tmp_path):
    truth, found = halves(), halves()
    found[:, 60:] = 0
    samples = [Sample(key, np.full((60, 80, 3), GREY, np.uint8), truth) for key in ("easy", "hard")]
    sheets.draw(tmp_path, shards_of(*samples), {1: found, 0: truth}, "")
    rows = rows_of(tmp_path / "hardest.csv")
    miou = (40 / 60 + 20 / 40) / 2  # columns: 40 of 60 are left in either, 20 of 40 right
    assert [(row["position"], row["key"], float(row["miou"])) for row in rows] == [
        ("1", "hard", pytest.approx(miou, abs=1e-4)),
        ("0", "easy", 1.0),
    ]
    assert sheets.listed(tmp_path) == [1, 0]
    assert sheets.listed(tmp_path / "none") == []


def test_images_of_any_shape_fit_and_runs_stand_side_by_side(tmp_path):
    shapes = [(60, 80), (200, 50), (30, 900)]
    samples = [Sample("k" * 60, np.full((*s, 3), GREY, np.uint8), np.zeros(s, np.uint8)) for s in shapes]
    masks = {i: sample.mask for i, sample in enumerate(samples)}
    sheets.compare(tmp_path / "c.jpg", shards_of(*samples), {"best a": masks, "base b": masks}, "both")
    pixels = read(tmp_path / "c.jpg")
    assert pixels.shape[1] == 6 * 244 + 20
    row = np.flatnonzero(where(pixels, GREY, 12).sum(axis=1) > 200)[0] + 20
    assert runs(pixels[row], [GREY, LEFT, figures.RIGHT], off=12) == [GREY, LEFT, figures.RIGHT, LEFT, figures.RIGHT]


# ------------------------------------------------------------------------------------------ the confusion matrix


def test_confusion_matrix_of_a_perfect_prediction_is_its_diagonal(tmp_path):
    names = [f"class {i}" for i in range(19)]
    charts.confusion_matrix(np.diag(np.arange(1, 20)), names, tmp_path / "c.png", title="perfect")
    pixels = read(tmp_path / "c.png")
    rows, columns = np.nonzero(where(pixels, BRIGHTEST))
    slope = np.polyfit(columns, rows, 1)[0]
    assert np.corrcoef(columns, rows)[0, 1] > 0.99
    assert slope > 0
    assert where(pixels, DARKEST).sum() > 10 * len(rows)


def test_confusion_matrix_has_the_truth_in_its_rows(tmp_path):
    charts.confusion_matrix([[0, 9], [0, 0]], ["a", "b"], tmp_path / "c.png", title="")
    pixels = read(tmp_path / "c.png")
    bright, dark = np.argwhere(where(pixels, BRIGHTEST)), np.argwhere(where(pixels, DARKEST))
    assert bright[:, 0].mean() == pytest.approx(dark[:, 0].mean(), abs=2)
    assert bright[:, 1].min() > dark[:, 1].max()


def test_confusion_matrix_leaves_the_row_of_an_absent_class_empty(tmp_path):
    charts.confusion_matrix(np.diag([5, 0, 9]), ["a", "b", "c"], tmp_path / "c.png", title="")
    pixels = read(tmp_path / "c.png")
    middle = np.nonzero(where(pixels, BRIGHTEST))[1].mean().astype(int)
    assert runs(pixels[:, middle], [DARKEST, WHITE]) == [WHITE, DARKEST, WHITE, DARKEST, WHITE]


def test_confusion_matrix_of_very_many_classes(tmp_path):
    names = [f"class {i}" for i in range(171)]
    charts.confusion_matrix(np.eye(171), names, tmp_path / "c.png", title="many")
    assert max(read(tmp_path / "c.png").shape) < 3000


# ------------------------------------------------------------------------------------------ classes


def evaluation(seed, never=4, only_predicted=3):
    """Random masks of five classes: one never there, one predicted alone."""
    rng = np.random.default_rng(seed)
    confusion, boundary, images = ConfusionMatrix(5, 9), BoundaryScores(5, 9), PerImage.empty(3, 5)
    for i in range(3):
        truth = cv2.resize(rng.integers(0, 3, (6, 8)).astype(np.uint8), (64, 48), interpolation=cv2.INTER_NEAREST)
        found = np.where(rng.random(truth.shape) < 0.2, only_predicted, truth).astype(np.uint8)
        images.note(i, confusion.update(found, truth))
        boundary.update(found, truth)
    assert not confusion.counts[never].any()
    return Evaluation(confusion, {}, 1.0, images, boundary, tuple("abcde"))


def test_the_class_table_has_all_that_is_defined_and_says_what_is_not(tmp_path):
    seen = evaluation(0)
    tables.write(tmp_path / "t.csv", seen, tuple("abcde"))
    rows = rows_of(tmp_path / "t.csv")
    figures_ = [name for name in rows[0] if name.startswith("f1_") and not name.endswith("present")]
    assert figures_ == ["f1_3px", "f1_5px", "f1_9px", "f1_12px"]
    for c, row in enumerate(rows[:3]):
        counts = seen.confusion.counts
        union = counts[c].sum() + counts[:, c].sum() - counts[c, c]
        assert float(row["iou"]) == pytest.approx(counts[c, c] / union, abs=1e-4)
        assert float(row["recall"]) == pytest.approx(counts[c, c] / counts[c].sum(), abs=1e-4)
        assert [float(row[name]) for name in figures_] == pytest.approx(seen.boundary.sums[:, c] / 3, abs=1e-4)
        assert (int(row["pixels"]), row["note"]) == (counts[c].sum(), "")
    assert (rows[3]["iou"], rows[3]["recall"], rows[3]["pixels"]) == ("0.0000", "", "0")
    assert rows[3]["note"].startswith("predicted, but not in this split")
    assert {value for name, value in rows[4].items() if name not in ("class", "note", "images", "pixels")} == {""}
    assert rows[4]["note"].startswith("never occurs")


def test_without_boundary_scores_the_table_has_none(tmp_path):
    tables.write(tmp_path / "t.csv", evaluation(0)._replace(boundary=None), tuple("abcde"))
    assert list(rows_of(tmp_path / "t.csv")[0]) == ["class", "iou", "recall", "pixels", "note"]


def test_differences_are_plain_subtractions_with_the_largest_gain_first(tmp_path):
    seen, base = evaluation(1), evaluation(2)
    tables.write_difference(tmp_path, seen, base, tuple("abcde"), "k0")
    rows = rows_of(tmp_path / "per_class_difference.csv")
    assert {row["base"] for row in rows} == {"k0"}
    assert sorted(row["class"] for row in rows) == list("abcde")
    gains = [float(row["iou_difference"]) for row in rows if row["iou_difference"]]
    assert gains == sorted(gains, reverse=True)
    assert rows[-1]["class"] == "e"
    for row in rows[:-1]:
        c = "abcde".index(row["class"])
        mine, theirs = (
            e.confusion.counts[c, c]
            / (e.confusion.counts[c].sum() + e.confusion.counts[:, c].sum() - e.confusion.counts[c, c])
            for e in (seen, base)
        )
        assert float(row["iou_difference"]) == pytest.approx(mine - theirs, abs=1e-4)
        f1 = [e.boundary.sums[3, c] / 3 for e in (seen, base)]
        assert float(row["f1_12px_difference"]) == pytest.approx(f1[0] - f1[1], abs=1e-4)


def test_bars_stand_right_for_a_gain_and_left_for_a_loss(tmp_path):
    now, before = np.array([0.2, 0.9, np.nan, 0.5]), np.array([0.4, 0.5, np.nan, 0.5])
    charts.differences(now, before, list("abcd"), tmp_path / "d.png", title="t")
    pixels = read(tmp_path / "d.png")
    gain, loss = (np.argwhere(where(pixels, color)) for color in (charts.BETTER, charts.WORSE))
    assert loss[:, 1].max() <= gain[:, 1].min()
    assert gain[:, 0].max() < loss[:, 0].min(), "the gain stands above"
    widths = [np.ptp(bar[:, 1]) + 1 for bar in (gain, loss)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=2)


def test_drawing_needs_no_plotting_library_and_bytes_depend_on_the_content_alone(tmp_path):
    program = f"""
import sys
from pathlib import Path
import numpy as np
from rayseg.train import charts
charts.confusion_matrix(np.eye(3), list("abc"), Path({str(tmp_path / "a.png")!r}), title="t")
assert "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)
    charts.confusion_matrix(np.eye(3), list("abc"), tmp_path / "b.png", title="t")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

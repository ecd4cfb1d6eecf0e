"""The ranking: best first, failed last, columns that line up whatever the searched values are."""

import csv
import itertools

import pytest

from rayseg.sweep import table
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, describe, trials
from rayseg.train.review import Summary

WEIGHTS = "backbone.weights"
SPACE = {
    WEIGHTS: choice("my best run = 2.safetensors", "b.pth"),
    "loss.ohem": choice(False, True),
    "loss.aux_weight": choice(0.123456, 0.0, 1),
}


def made(space):
    preset = Preset(about="a test", recipe="gald/scenes", settings={}, space=space, algorithm="grid")
    return trials(preset, algorithm="grid", count=1, shards="none", settings={})


def summary(best_miou, parameters=10**6, **more):
    figures = {"best_miou": best_miou, "miou": 0.1, "step": 80, "best_step": 80, "seconds": 75.0}
    return Summary(parameters=parameters, status="finished", samples_per_s=1.0, **figures | more)


def rows_of(*summaries, space=SPACE):
    return [table.Row(trial, s) for trial, s in zip(made(space), summaries, strict=False)]


def test_best_first_then_fewer_parameters_then_the_order_they_were_drawn_in():
    a, b, c, d, e = rows_of(summary(0.4), summary(0.5, 3), summary(0.5, 2), summary(0.5, 2), summary(0.6, 9))
    assert table.ranked([a, b, c, d, e]) == [e, c, d, b, a]


def test_failed_trials_are_last_and_say_so():
    unseen = summary(-1.0, 10**6, best_step=0)  # a trial that ended before its first evaluation
    failed, poor, early, gone = rows_of(None, summary(0.0), unseen, None)
    ranking = table.ranked([failed, early, gone, poor])
    assert ranking == [poor, early, failed, gone]
    header, cells = table.columns(ranking)
    assert [row[header.index("end")] for row in cells] == ["finished", "finished", "failed", "failed"]
    assert [row[header.index("rank")] for row in cells] == ["1", "2", "3", "4"]


def columns_by_eye(text, header):
    """Cut a right-aligned table where the header's words end, as a reader would."""
    first, *lines = text.splitlines()
    ends = list(itertools.accumulate(header, lambda at, name: first.index(name, at) + len(name), initial=0))
    assert all(len(line) == len(first) == ends[-1] for line in lines)
    spans = list(itertools.pairwise(ends))
    assert all(line[start : start + 2] == "  " for line in lines for start, _ in spans[1:])
    return [[line[start:end].strip() for start, end in spans] for line in lines]


def test_text_values_with_spaces_line_up_and_the_csv_holds_the_same(tmp_path):
    rows = table.ranked(rows_of(*(summary(i / 20) for i in range(11)), None))
    assert len(rows) == 12
    table.write_csv(tmp_path / "ranking.csv", rows)
    with (tmp_path / "ranking.csv").open(newline="", encoding="utf-8") as file:
        header, *cells = csv.reader(file)
    assert header == [
        "rank",
        "trial",
        "weights",
        "ohem",
        "aux_weight",
        "mIoU",
        "last",
        "steps",
        "params",
        "time",
        "end",
    ]
    assert columns_by_eye(table.text(rows), header) == cells
    assert {tuple(row[2:5]) for row in cells} == set(
        itertools.product(SPACE[WEIGHTS].values, ("false", "true"), ("0.1235", "0", "1"))
    )
    for row, line in zip(rows, cells, strict=True):
        assert describe(row.trial.point) == f"weights={line[2]} ohem={line[3]} aux_weight={line[4]}"


def test_a_base_with_nothing_searched_has_a_table():
    header, cells = table.columns(rows_of(summary(0.5), space={}))
    assert [len(row) for row in cells] == [len(header)]
    assert "mIoU" in table.text(rows_of(summary(0.5), space={}))


def test_surface_takes_the_best_of_each_cell_and_leaves_out_what_failed():
    rows = rows_of(*(summary(i / 20) for i in range(11)), None)
    found = table.surface(rows, ("loss.ohem", "loss.aux_weight"))
    assert (found.row_values, found.column_values) == ([False, True], [0.0, 0.123456, 1])
    assert found.counts.tolist() == [[2, 2, 2], [2, 2, 1]]
    # trials 0..5 have the first weights, 6..11 the second; the last of all failed
    assert found.best.ravel() == pytest.approx([0.35, 0.3, 0.4, 0.5, 0.45, 0.25])
    names = ("loss.ohem", "loss.aux_weight")
    assert columns_by_eye(table.surface_text(found, names), [r"ohem \ aux_weight", "0", "0.1235", "1"]) == [
        ["false", "0.350", "0.300", "0.400"],
        ["true", "0.500*", "0.450", "0.250"],
    ]
    assert table.surface(rows, ("head.dilation", "loss.ohem")) is None

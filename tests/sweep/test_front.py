"""Several objectives in the ranking: who is on the front, by comparing every pair."""

import csv
import itertools
import random

import pytest

from rayseg import figures
from rayseg.sweep import table
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, trials
from rayseg.train.review import Summary

SPACE = {
    "head.kernel_size": choice(3, 5, 7, 9, 11),
    "head.dilation": choice(1, 2, 3, 6),
    "loss.ohem": choice(True, False),
}
AGAINST = {"-parameters": "parameters", "-latency_ms": "latency_ms"}


def rows_of(*figures):
    preset = Preset(about="a test", recipe="gald/scenes", settings={}, space=SPACE, algorithm="grid")
    listed = trials(preset, algorithm="grid", count=1, shards="none", settings={})
    plain = {"miou": 0.1, "step": 80, "best_step": 80, "seconds": 75.0, "status": "finished", "samples_per_s": 1.0}
    return [
        table.Row(t, Summary(best_miou=miou, parameters=size, latency_ms=ms, **plain) if miou is not None else None)
        for t, (miou, size, ms) in zip(listed, figures, strict=False)
    ]


@pytest.mark.parametrize("against", AGAINST)
@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_no_other_row_beats(against, seed):
    rng = random.Random(seed)
    rows = rows_of(
        *((rng.randrange(8) / 10, rng.randrange(1, 8), rng.randrange(1, 8) / 2) for _ in range(30)), (None, 0, 0)
    )
    found = table.front(rows, ("miou", against))
    for i, row in enumerate(rows):
        beaten = row.summary is None or any(
            (o.best_miou >= s.best_miou and cost(o) <= cost(s) and (o.best_miou, cost(o)) != (s.best_miou, cost(s)))
            for s, o in itertools.product([row.summary], [other.summary for other in rows if other.summary])
            for cost in [lambda x: getattr(x, AGAINST[against])]
        )
        assert (i in found) is not beaten


def test_a_latency_that_was_not_measured_beats_nobody():
    rows = rows_of((0.5, 9, 0.0), (0.4, 9, 20.0), (0.3, 9, 30.0))
    assert table.front(rows, ("miou", "-latency_ms")) == {1}
    assert table.front(rows, ("miou", "-parameters")) == {0}


def test_the_table_marks_the_front_and_shows_what_was_weighed(tmp_path):
    rows = table.ranked(rows_of((0.5, 9_000_000, 40.0), (0.4, 5_000_000, 20.0), (0.3, 6_000_000, 30.0), (None, 0, 0)))
    table.write_csv(tmp_path / "ranking.csv", rows, ("miou", "-latency_ms"))
    with (tmp_path / "ranking.csv").open(newline="", encoding="utf-8") as file:
        header, *cells = csv.reader(file)
    found = [dict(zip(header, line, strict=True)) for line in cells]
    assert [(row["mIoU"], row["params"], row["ms"], row["front"], row["end"]) for row in found] == [
        ("0.5000", "9.00 M", "40.0", "*", "finished"),
        ("0.4000", "5.00 M", "20.0", "*", "finished"),
        ("0.3000", "6.00 M", "30.0", "", "finished"),
        ("-", "-", "-", "", "failed"),
    ]
    plain, _ = table.columns(rows)
    assert not {"ms", "front"} & set(plain)


def test_a_known_point_names_its_run_and_has_no_time_of_its_own():
    (row,) = rows_of((0.5, 9, 1.0))
    known = row._replace(summary=row.summary.model_copy(update={"status": "known"}), run="gald-demo-1/3fa29c01")
    header, (cells,) = table.columns([known])
    found = dict(zip(header, cells, strict=True))
    assert (found["end"], found["time"]) == ("known: gald-demo-1/3fa29c01", "-")


def test_points_without_a_name_have_an_empty_cell():
    """A head's own options exist under that head only."""
    one, other = rows_of((0.5, 9, 1.0), (0.4, 9, 1.0))
    other = other._replace(trial=other.trial._replace(point={"head.name": "fcn"}))
    header, cells = table.columns([one, other])
    assert header[2:6] == ["kernel_size", "dilation", "ohem", "name"]
    assert [line[2:6] for line in cells] == [["3", "1", "true", ""], ["", "", "", "fcn"]]


def test_the_picture_of_the_front(tmp_path):
    points = {"a": (5.0, 0.4), "b": (9.0, 0.5), "c": (6.0, 0.3)}
    figures.pareto(points, ["a", "b"], tmp_path / "front.png", cost_name="latency_ms", title="a sweep")
    figures.pareto(points, ["a", "b"], tmp_path / "again.png", cost_name="latency_ms", title="a sweep")
    figures.pareto(points, ["a"], tmp_path / "other.png", cost_name="latency_ms", title="a sweep")
    figures.pareto({}, [], tmp_path / "empty.png", cost_name="latency_ms")
    first = (tmp_path / "front.png").read_bytes()
    assert first == (tmp_path / "again.png").read_bytes()
    assert first != (tmp_path / "other.png").read_bytes()
    assert first.startswith(b"\x89PNG")

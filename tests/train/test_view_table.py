"""The table of views: its figures are those of each evaluation alone, its costs those of the passes that are made."""

import json

import pytest
import torch
from click.testing import CliRunner
from tiny_run import TINY
from torch import nn

from rayseg import cli, segmenter
from rayseg import config as configs
from rayseg.config import ViewConfig
from rayseg.errors import UsageError
from rayseg.tracking import NullTracker
from rayseg.train import inference, view_table, views
from rayseg.train.inference import evaluate_run
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

SCALES = [0.5, 1.25]


@pytest.fixture(scope="module")
def trained(tiny_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    settings = {"data.shards": str(tiny_shards), "train.steps": 8, "train.eval_every": 8, "optim.lr": 0.05}
    config = configs.from_dict(configs.merged(TINY, settings))
    fit(config, LocalRuntime(folder, "cpu"), NullTracker(), show=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def seen(trained):
    return inference.subject(trained, None, None)


@pytest.fixture(scope="module")
def table(seen):
    chosen = view_table.combinations(seen.config, seen.shards, {"scales": SCALES, "window_px": [32, 40]})
    return view_table.measure(seen, chosen)


def test_every_combination_is_there_once(table):
    found = [(row.views.window_px, row.views.scales, row.views.flip) for row in table]
    wanted = [(w, s, f) for w in (None, (32, 40)) for s in ((1.0,), tuple(SCALES)) for f in (False, True)]
    assert found == wanted


def test_scores_are_those_of_each_evaluation_alone(trained, table):
    for row in (table[0], table[3], table[6], table[7]):
        alone = evaluate_run(trained, None, None, views=row.views)
        assert (row.miou, row.boundary_f1) == (alone["miou"], alone["boundary_f1_3px"])
    assert len({row.miou for row in table}) > 4, "the views must differ for this to say anything"


def test_costs_are_those_of_the_passes(seen, table):
    def gmac(height, width):
        return segmenter.describe(seen.trained.model, (3, height, width)).macs / 1e9

    whole = [gmac(48, 64), gmac(24, 32) + gmac(60, 80)]
    windows = [4 * gmac(32, 40), gmac(24, 32) + 9 * gmac(32, 40)]  # at 60 x 80: from 0, 22, 28 and 0, 27, 40
    expected = [cost * (1 + flip) for cost in whole + windows for flip in (0, 1)]
    assert [row.gmac for row in table] == pytest.approx(expected, rel=1e-12)
    assert [row.passes for row in table] == [1, 2, 2, 4, 4, 8, 10, 20]
    assert table[0].time == 1
    assert table[3].time > table[2].time > 1


@pytest.mark.parametrize(
    "config", [{}, {"flip": True}, {"window_px": (9, 14), "scales": (0.5, 1.0, 2.0), "flip": True}]
)
def test_passes_are_what_the_model_is_shown(config):
    class Shown(nn.Module):
        def __init__(self):
            super().__init__()
            self.sizes = []

        def forward(self, x_BCHW):
            self.sizes.append(tuple(x_BCHW.shape[-2:]))
            return {"main": x_BCHW}

    model = Shown()
    views.scores(model, torch.zeros(1, 3, 23, 31), ViewConfig(**config))
    assert model.sizes == views.passes((23, 31), ViewConfig(**config))


def test_without_options_the_runs_own_are_taken(seen):
    chosen = view_table.combinations(seen.config, seen.shards, {})
    assert {row.scales for row in chosen} == {(1.0,), view_table.SCALES}
    assert {row.window_px for row in chosen} == {None, (48, 48)}
    own = ViewConfig(scales=(0.75, 1.0), window_px=(40, 40), stride=0.5, flip=True)
    chosen = view_table.combinations(seen.config.model_copy(update={"test": own}), seen.shards, {})
    assert {(row.window_px, row.stride) for row in chosen} == {(None, 2 / 3), ((40, 40), 0.5)}
    assert {row.scales for row in chosen} == {(1.0,), (0.75, 1.0)}


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"window_px": None}, 4),
        ({"window_px": [96, 128]}, 4),
        ({"window_px": [95, 128]}, 8),
        ({"window_px": [48, 64]}, 8),
    ],
)
def test_windows_that_hold_the_image_at_every_scale_are_left_out(seen, given, rows):
    """At scale 2 these images are 96 x 128."""
    assert len(view_table.combinations(seen.config, seen.shards, given)) == rows


def test_one_scale_is_not_several(seen):
    with pytest.raises(UsageError, match="compared with"):
        view_table.combinations(seen.config, seen.shards, {"scales": [1.0]})


def call(*arguments):
    return CliRunner().invoke(cli.rayseg, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def test_the_command_prints_the_table_with_an_eta(trained, table):
    result = call(trained, "--tta-table", "--scales", "0.5,1.25", "--window", "none")
    lines = result.stdout.splitlines()
    rows = [line for line in lines if line.startswith("whole")]
    for line, row in zip(rows, table[:4], strict=True):
        figures = line.removeprefix("whole images").split()
        assert figures[:2] == ["yes" if many else "-" for many in (row.views.scales != (1.0,), row.views.flip)]
        assert figures[2:6] == [f"{row.miou:.4f}", f"{row.boundary_f1:.4f}", str(row.passes), f"{row.gmac:.2f}"]
    assert lines[0] == "step 8, split val, 5 images"
    assert "eta" in result.stderr


def test_the_command_gives_the_rows_in_plain_types(trained, table):
    found = json.loads(call(trained, "--tta-table", "--scales", "0.5", "--window", "32x40", "--json").stdout)
    assert [row["miou"] for row in found[:2]] == [row.miou for row in table[:2]]
    assert found[-1]["scales"] == [0.5]
    assert (found[-1]["window_px"], found[-1]["flip"], found[-1]["passes"]) == ([32, 40], True, 2)


@pytest.mark.parametrize("option", ["--flip", "--no-flip"])
def test_what_would_be_ignored_is_refused(trained, option):
    with pytest.raises(UsageError, match="--flip"):
        call(trained, "--tta-table", option)

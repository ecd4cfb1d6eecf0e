"""The line that runs the winner again: read by the real command, it gives the same run."""

import shlex

import pytest
from made_sweep import POINTS, Made, config, whole

from rayseg import config as configs
from rayseg import recipe
from rayseg.cli import train
from rayseg.report import rerun
from rayseg.report.gather import gather


def trained(line, folder):
    """The config that a line trains, as `rayseg train` reads it; a recipe file lies in `folder`."""
    program, command, *words = shlex.split(line)
    assert (program, command) == ("rayseg", "train")
    given = train.make_context("train", words).params
    (name,), (shards,) = given["recipes"], given["shards"]
    name = str(folder / name) if name.endswith(".toml") else name
    settings = {"data.shards": shards, **configs.parse_settings(given["settings"])}
    return configs.from_dict(configs.merged(recipe.load(name).run, settings))


def kept(made, tmp_path):
    (tmp_path / rerun.FILE).write_text(made.toml)
    return tmp_path


def test_the_winners_line_is_the_winners_run(tmp_path):
    folder = whole(tmp_path / "a sweep's")
    report = gather(folder)
    wanted = config(report.trial(report.winner).point, **{"train.steps": 40, "train.batch": 4})
    assert not report.rerun.with_file
    assert configs.identity(trained(report.rerun.train, tmp_path)) == configs.identity(wanted)
    assert shlex.split(report.rerun.evaluate) == ["rayseg", "evaluate", str(folder / "trials" / report.winner)]


@pytest.mark.parametrize(
    "point",
    [
        {"head.name": "fcn"},
        {"head.name": "psp", "optim.lr": 1e-7, "seed": 3},
        {"head.name": "denoised_nl", "loss.dice_weight": 0.5},
        {"augment.crop_px": [64, 96], "augment.scales": [0.5, 1.0, 1.75]},
        {"loss.kind": "focal", "loss.focal_gamma": 2.0},
        {"loss.weights": {"main": 1.0}, "train.steps": 7},
        {"optim.schedule": "poly", "train.ema_decay": 0.99, "head.norm": "group"},
    ],
)
def test_any_run_is_said_by_a_line(tmp_path, point):
    wanted = config(point)
    found = rerun.rerun(tmp_path / "s" / "trials" / "k", wanted, recipe="gald/scenes", dataset="scenes")
    assert found.why == ""
    assert configs.identity(trained(found.train, kept(found, tmp_path))) == configs.identity(wanted)
    assert configs.identity(trained(f"rayseg train --recipe {rerun.FILE} --shards x", tmp_path)) == configs.identity(
        wanted
    )


def test_what_no_setting_can_say_is_said_by_a_recipe(tmp_path):
    """The recipe sets a window; the run has none of it, and `--set` has no word for none."""
    point = {"head.ga": "aspp", "head.ld": "none", "head.kernel_size": None, "head.dilation": None}
    wanted = config(point)
    assert rerun.over("gald/scenes", wanted) is None
    found = rerun.rerun(tmp_path / "s" / "trials" / "k", wanted, recipe="gald/scenes", dataset="scenes")
    assert (found.with_file, found.why) == (True, "")
    assert configs.identity(trained(found.train, kept(found, tmp_path))) == configs.identity(wanted)


def test_a_recipe_that_is_gone_is_replaced_by_the_pages(tmp_path):
    found = rerun.rerun(tmp_path / "s" / "trials" / "k", config(POINTS[0]), recipe="mine/gone.toml", dataset="scenes")
    assert found.with_file
    wanted = configs.identity(config(POINTS[0]))
    assert configs.identity(trained(found.train, kept(found, tmp_path))) == wanted


def test_a_stopped_finalists_run_to_its_end_is_what_is_run_again(tmp_path):
    made = Made(tmp_path)
    made.trial(POINTS[0], key="first", miou=0.4, outcome="stopped", reason="under the cut")
    made.trial(POINTS[0], key="onward", miou=0.6, donor={"key": "first", "step": 20})
    made.trial(POINTS[1], key="other", miou=0.5)
    made.finals("tie: x", {"first": [0.6, 0.5], "other": [0.5, 0.5]}, [("first", "other", 0.05, -0.1, 0.2, 0.95)])
    plain = (tmp_path / "finals.json").read_text()
    (tmp_path / "finals.json").write_text(plain.replace('"trials": ["first"]', '"trials": ["onward"]'))
    report = gather(made.over())
    assert report.winner == "first"
    assert shlex.split(report.rerun.evaluate)[-1] == str(tmp_path / "trials" / "onward")

"""Phases: each begins with the best weights of the one before, all go on after an interruption, mistakes come first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY

from rayseg import config as configs
from rayseg import recipe as recipes
from rayseg.cluster.phases import train_phases
from rayseg.errors import UsageError
from rayseg.tracking import NullTracker
from rayseg.train import commit, phases, review
from rayseg.train.loop import fit
from rayseg.train.phases import Phase
from rayseg.train.runtime import LocalRuntime

SHORT = {"train.steps": 2, "train.eval_every": 1}


def recipe(folder: Path, name: str, **settings: Any) -> str:
    """Write a recipe: the tiny run's with other settings."""
    run = configs.merged(TINY, SHORT | {key.replace("__", "."): value for key, value in settings.items()})
    lines = ['about = "a phase"', 'dataset = "scenes"']
    for table, fields in ((table, run[table]) for table in run if isinstance(run[table], dict)):
        lines += [f"[run.{table}]", *(f"{field} = {json.dumps(value)}" for field, value in fields.items())]
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def stages(tmp_path: Path) -> list[str]:
    """Fine, coarse with batch norm held, fine again at a lower rate: as GALD's, but tiny."""
    first = recipe(tmp_path, "fine", optim__lr=0.05)
    return [first, recipe(tmp_path, "coarse", train__freeze_norm=True), recipe(tmp_path, "fine_again", optim__lr=1e-30)]


def runs(phase: Phase) -> configs.RunConfig:
    given = {"data.shards": phase.shards, **phase.settings}
    return configs.from_dict(configs.merged(recipes.load(phase.recipe).run, given))


def trainer(lines: list[str], pause_in: int = 0) -> Callable[[Phase], review.Summary | None]:
    """Train a phase here; the `pause_in`-th one is interrupted after a step."""
    begun: list[Phase] = []

    def train(phase: Phase) -> review.Summary | None:
        begun.append(phase)
        runtime = LocalRuntime(phase.folder, "cpu")
        runtime.wanted = "pause" if len(begun) == pause_in else None
        return fit(runs(phase), runtime, NullTracker(), show=lines.append)

    return train


def last(folder: Path) -> dict[str, torch.Tensor]:
    found = commit.newest(folder)
    assert found is not None
    return commit.tensors(found, "model")


def test_phases_follow_each_other_and_an_interruption_changes_nothing(
    stages: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    straight, broken, lines = tmp_path / "a" / "all", tmp_path / "b" / "all", list[str]()
    for run_dir in (straight, broken):
        planned = phases.plan(stages, run_dir, {"seed": 3}, [str(tiny_shards)] * 3)
        assert [phase.folder.name for phase in planned] == ["1-fine", "2-coarse", "3-fine_again"]
        if run_dir is broken:
            assert phases.follow(planned, trainer(lines, pause_in=2), lines.append) is None
            assert not planned[2].folder.exists()
        summary = phases.follow(planned, trainer(lines), lines.append)
        assert summary == review.read_summary(planned[2].folder)
    # The paths differ, and they are part of a run's config: everything else is the same.
    for phase in planned:
        one, two = (last(folder / phase.folder.name) for folder in (straight, broken))
        assert all(torch.equal(one[name], two[name]) for name in one)
    again: list[str] = []
    phases.follow(planned, trainer(again), again.append)
    assert again == [f"phase {at}/3: {name}" for at, name in enumerate(stages, 1)]  # nothing is trained twice

    # The third one's rate is too small to change a weight: it ends with the second one's best.
    best = commit.best_weights(review.best_commit(planned[1].folder))
    final = last(planned[2].folder)
    weights = [name for name in best if name.endswith(("weight", "bias"))]
    assert len(weights) > 10
    assert all(torch.allclose(best[name], final[name], rtol=0, atol=1e-20) for name in weights)
    # Batch norm was held in the second one.
    held = [name for name in best if name.endswith("running_mean")]
    first = commit.best_weights(review.best_commit(planned[0].folder))
    assert all(torch.equal(first[name], best[name]) for name in held)
    assert not all(torch.equal(first[name], final[name]) for name in held)


def test_what_does_not_follow_is_refused_before_anything_begins(stages: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    wider = recipe(tmp_path, "wider", head__channels=32)
    with pytest.raises(UsageError, match=r"trains another model: \d+ weights differ, head\."):
        phases.plan([*stages[:2], wider], out, {}, ["x"] * 3)
    pretrained = recipe(tmp_path, "pretrained", backbone__pretrained=True)
    with pytest.raises(UsageError, match="would be overwritten by start_from"):
        phases.plan([stages[0], pretrained], out, {}, ["x"] * 2)
    phases.plan([pretrained, stages[0]], out, {}, ["x"] * 2)
    with pytest.raises(UsageError, match="unknown recipe 'nowhere'"):
        phases.plan([stages[0], "nowhere"], out, {}, ["x"] * 2)
    assert not out.exists()


def test_the_given_start_is_the_first_phases(stages: list[str], tmp_path: Path) -> None:
    first, second, _ = phases.plan(stages, tmp_path, {"start_from": "/elsewhere"}, ["x"] * 3)
    assert [runs(phase).start_from for phase in (first, second)] == ["/elsewhere", str(tmp_path / "1-fine")]


def test_galds_three_stages_on_cityscapes_follow_each_other(tmp_path: Path) -> None:
    names = ["gald/cityscapes_r101", "gald/cityscapes_coarse", "gald/cityscapes_coarse_fine"]
    planned = phases.plan(names, tmp_path, {}, ["fine", "coarse", "fine"])
    configured = [runs(phase) for phase in planned]
    assert [run.train.freeze_norm for run in configured] == [False, True, False]
    assert [run.backbone.pretrained for run in configured] == [True, False, False]
    phases.plan(["gald/cityscapes_for_camvid", "gald/camvid_from_cityscapes"], tmp_path, {}, ["city", "camvid"])


def test_one_command_trains_them(
    stages: list[str], tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSEG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAYSEG_TRACKING_URI", raising=False)
    lines: list[str] = []
    asked: dict[str, Any] = {"run_dir": tmp_path / "run", "settings": {}, "show": lines.append, "on_start": id}
    with pytest.raises(UsageError, match="2 shards for 3 recipes"):
        train_phases(stages, shards=["x", "y"], **asked)
    summary = train_phases(stages[:2], shards=[str(tiny_shards)] * 2, **asked)
    assert summary is not None
    assert summary.step == 2
    assert [line for line in lines if line.startswith("phase")] == [f"phase {i}/2: {stages[i - 1]}" for i in (1, 2)]
    assert any(line.startswith("starting from step") and "1-fine" in line for line in lines)

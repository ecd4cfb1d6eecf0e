"""Every job: its sweep's presets hold, its trials differ, and the file runs from its path."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rayseg import config as configs
from rayseg import optim, recipe, segmenter
from rayseg.data import card as cards
from rayseg.losses import SegmentationLoss
from rayseg.sweep.space import draw
from rayseg.sweep.trial import built, trials

JOBS = Path(__file__).parents[1] / "jobs"
SWEEPS = sorted(JOBS.glob("*_sweep.py"))


def load(path, monkeypatch):
    monkeypatch.syspath_prepend(str(JOBS))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SWEEP


def prepared(preset, **changes):
    """A preset's trials and its data set's card; drawing and building them reads no shards."""
    preset = preset.model_copy(update=changes)
    card = cards.load(recipe.load(preset.recipe).dataset)
    return trials(preset, algorithm=preset.algorithm, count=preset.trials, shards=card.name, settings={}), card


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_preset_names_a_card(path, monkeypatch):
    for preset in load(path, monkeypatch).presets.values():
        assert recipe.load(preset.recipe).dataset in cards.names()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_preset_draws_trials_that_differ(path, monkeypatch):
    for preset in load(path, monkeypatch).presets.values():
        made, card = prepared(preset)
        proof = built(made, card.num_classes)
        assert len({trial.key for trial in made}) == len(made) == len(proof)
        searched_model = [name for name in preset.space if name.startswith(("head.", "backbone."))]
        models = {tuple(trial.point[name] for name in searched_model) for trial in made}
        assert len({b.fingerprint for b in proof}) >= len(models)


def test_the_demo_has_at_least_eight_models(monkeypatch):
    made, card = prepared(load(JOBS / "gald_sweep.py", monkeypatch).presets["demo"])
    assert len({b.fingerprint for b in built(made, card.num_classes)}) >= 8


def test_the_camvid_preset_searches_six_windows_alone(monkeypatch):
    preset = load(JOBS / "gald_sweep.py", monkeypatch).presets["camvid"]
    made, card = prepared(preset)
    assert (card.name, preset.algorithm) == ("camvid", "asha")
    assert len({(t.point["head.kernel_size"], t.point["head.dilation"]) for t in made}) == len(made) == 6
    assert {name for trial in made for name in trial.point} == {"head.kernel_size", "head.dilation"}


def model_of(config):
    """The built model's repr, names and shapes."""
    return segmenter.fingerprint(segmenter.skeleton(config.model(11)))


def loss_of(config):
    """The total on fixed logits of the outputs that the built model has, for as many pixels as the run's batch."""
    model = segmenter.skeleton(config.model(11))
    names = ["main", *model.loss_weights(), *(["aux"] if model.auxiliary is not None else [])]
    generator = torch.Generator().manual_seed(0)
    batch, (height, width) = config.train.batch, config.augment.crop_px
    target = torch.randint(12, (batch, height, width), generator=generator)
    spread = 4.0  # some pixels are easy: OHEM drops those
    outputs = {name: spread * torch.randn(batch, 11, height, width, generator=generator) for name in names}
    criterion = SegmentationLoss(config.loss, ignore_index=11, weights=model.loss_weights())
    return criterion(outputs, target)["loss"].item()


def groups_of(config):
    """The optimizer's groups without their parameters."""
    model = segmenter.skeleton(config.model(11))
    groups = optim.build(config.optim, model.backbone, model).param_groups
    return str([{k: v for k, v in group.items() if k != "params"} for group in groups])


LOOK = {"head": model_of, "backbone": model_of, "loss": loss_of, "optim": groups_of}
"""By a searched name's table: what of the run every one of its values has to change."""


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_searched_value_changes_what_it_names(path, monkeypatch):
    """Trials that were all identical are this field's classic bug."""
    for preset in load(path, monkeypatch).presets.values():
        base = prepared(preset, space={}, algorithm="grid")[0][0].config.model_dump(mode="json")
        for name, dimension in preset.space.items():
            points = draw({name: dimension}, 8, seed=0)
            look = LOOK[name.split(".")[0]]
            seen = [look(configs.from_dict(configs.merged(base, point))) for point in points]
            assert len(set(seen)) == len(points), (name, seen)


def test_a_job_started_by_a_python_without_rayseg_finds_the_environment_or_says_so(tmp_path):
    """`-S -I` hides the installed packages, as a system Python would."""
    copy = tmp_path / "jobs"
    copy.mkdir()
    for name in ("_environment.py", "gald_sweep.py"):
        (copy / name).write_text((JOBS / name).read_text())
    code = (
        f"import sys; sys.path.insert(0, {str(copy)!r}); import runpy; runpy.run_path({str(copy / 'gald_sweep.py')!r})"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: rayseg is not installed")
    assert len(done.stderr.splitlines()) == 3


def test_bad_command_lines_are_one_line(tmp_path):
    cases = {
        ("--preset", "demoo"): "did you mean 'demo'",
        ("--algorithm", "gird"): "'gird' is not one of",
        ("--set", "lr"): "a.b=c",
        ("--trials", "0"): "0 is not in the range",
        ("--no-such",): "No such option",
    }
    for arguments, says in cases.items():
        done = subprocess.run(
            [sys.executable, str(JOBS / "gald_sweep.py"), *arguments],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "RAYSEG_HOME": str(tmp_path / "h")},
        )
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines)) == (2, 1), (arguments, done.stderr)
        assert lines[0].startswith("error: ")
        assert says in lines[0], lines
        assert len(lines[0]) <= 300

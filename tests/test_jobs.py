"""Every job: its sweep's presets hold, its trials differ, and the file runs from its path."""

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from looks import SLIM, alike, forget
from rayseg import heads, recipe
from rayseg.data import card as cards
from rayseg.sweep.preset import OF_SPACES
from rayseg.sweep.space import Uniform, choice
from rayseg.sweep.trial import Preset, base_of, built, probes, trials

JOBS = Path(__file__).parents[1] / "jobs"
SWEEPS = sorted(JOBS.glob("*_sweep.py"))


@functools.cache
def sweep_of(path):
    """The sweep that a job file exports; its folder is on the path, as when the file is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(JOBS))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.SWEEP


def prepared(preset):
    """A preset's trials and its data set's card; drawing and building them reads no shards.

    Of an algorithm that chooses as it goes, a trial for every value and bound. They are on a small backbone, where
    backbones are not searched.
    """
    card = cards.load(recipe.load(preset.recipe).dataset)
    given = {"shards": card.name, "settings": {} if "backbone.name" in preset.space else SLIM}
    if preset.algorithm in OF_SPACES:
        return probes(base_of(preset, **given)), card
    return trials(preset, algorithm=preset.algorithm, count=preset.trials, **given), card


PRESETS = [(path, name) for path in SWEEPS for name in sweep_of(path).presets]
each_preset = pytest.mark.parametrize(("path", "name"), PRESETS, ids=[f"{p.stem}-{name}" for p, name in PRESETS])


@each_preset
def test_every_preset_draws_trials_that_differ(path, name):
    preset = sweep_of(path).presets[name]
    assert recipe.load(preset.recipe).dataset in cards.names()
    made, card = prepared(preset)
    proof = built(made, card.num_classes)
    assert len({trial.key for trial in made}) == len(made) == len(proof) > 1
    assert len(made) == preset.trials or preset.algorithm not in ("random", "asha", "hyperband", "ladder")


@each_preset
def test_every_searched_value_and_every_row_changes_the_model_the_loss_or_the_optimizer(path, name):
    """Trials that were all identical are this field's classic bug."""
    base = base_of(sweep_of(path).presets[name], shards="anywhere", settings={})
    assert list(alike(base)) == []


IGNORED = {
    "unread by the loss": {"loss.ohem_threshold": choice(0.5, 0.7)},
    "one worker": {"head.norm": choice("batch", "sync_batch")},
    "nobody to synchronise with": {"train.sync_norm": choice("off", "on")},
    "one flip is as good as another": {"augment.flip": choice(True), "augment.blur": Uniform(low=0.0, high=1e-9)},
}


@pytest.mark.parametrize("space", IGNORED.values(), ids=IGNORED)
def test_values_that_change_nothing_are_noticed(space):
    preset = Preset(about="a plant", recipe="gald/scenes", settings={}, space=space, algorithm="random")
    assert list(alike(base_of(preset, shards="anywhere", settings={}))) != []


def test_an_option_that_a_head_stores_and_does_not_read_is_noticed(monkeypatch):
    """Its repr would still show it."""
    job = sweep_of(JOBS / "dgcw_sweep.py").presets["demo"]
    base = base_of(job, shards="anywhere", settings={})
    assert list(alike(base)) == []
    real = heads.build

    def deaf(config, spec, num_classes):
        head = real(config, spec, num_classes)
        for module in head.modules():
            if hasattr(module, "weighting"):
                module.weighting = "dbs"
        return head

    monkeypatch.setattr(heads, "build", deaf)
    forget()
    assert [found for found in alike(base) if found.startswith("head.weighting")] != []
    forget()


def test_rows_that_are_the_same_run_are_noticed():
    rows = ({"loss.ohem_threshold": 0.5}, {"loss.ohem_threshold": 0.7})
    preset = Preset(about="a plant", recipe="gald/scenes", settings={}, rows=rows, algorithm="grid")
    assert list(alike(base_of(preset, shards="anywhere", settings={}))) != []


def test_the_demo_is_the_whole_window_grid():
    made, card = prepared(sweep_of(JOBS / "gald_sweep.py").presets["demo"])
    found = {(t.config.head.kernel_size, t.config.head.dilation) for t in made}
    assert found == {(k, r) for k in (3, 5, 7) for r in (1, 2, 3, 6)}
    assert len({b.fingerprint for b in built(made, card.num_classes)}) == 12


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

"""The probe of --plan, for real: processes that measure together, and what becomes of a trial that cannot be run."""

import psutil
import pytest

from rayseg.cluster import probing
from rayseg.cluster.watch import Resources
from rayseg.data.reader import open_shards
from rayseg.errors import TrainingError
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, trials


@pytest.fixture
def listed(tiny_shards):
    """Four small trials: two channels, two dilations."""
    settings = {
        "train.steps": 200,
        "train.eval_every": 50,
        "train.batch": 4,
        "augment.crop_px": [48, 48],
        "backbone.output_stride": 16,
        "loss.ohem_min_kept": 1000,
    }
    space = {"head.channels": choice(16, 32), "head.dilation": choice(1, 2)}
    preset = Preset(about="a test", recipe="gald/scenes", settings=settings, space=space, algorithm="grid")
    return trials(preset, algorithm="grid", count=1, shards=str(tiny_shards), settings={})


def probe(listed, concurrent=2, workers=1):
    load = probing.load_of(open_shards(listed[0].config.data.shards, "val"))
    said, before = [], psutil.Process().children()
    try:
        return probing.probe(listed, load, Resources(workers, 1, 0.0, concurrent), said.append), said
    finally:
        assert psutil.Process().children() == before


@pytest.mark.slow
def test_the_first_and_the_largest_are_measured_at_once_and_nothing_stays(listed, monkeypatch):
    monkeypatch.setattr(probing, "EACH", 1)
    found, said = probe(listed)
    assert {m.trial.key for m in found.measured} == {listed[0].key, listed[2].key}  # 16 channels, 32 channels
    assert all(m.pace.step_s > 0 and m.pace.image_s > 0 and m.pace.peak_mib > 50 for m in found.measured)
    assert found.at_once == 2
    assert 0 < found.boot_s < found.took_s
    assert said == ["measuring 2 of 4 trials, 2 at a time, for at most 50 s"]


@pytest.mark.slow
def test_a_trial_that_cannot_be_run_is_named_and_the_others_count(listed, monkeypatch):
    monkeypatch.setattr(probing, "EACH", 1)
    broken = listed[2].config.model_copy(
        update={"data": listed[2].config.data.model_copy(update={"train_split": "nowhere"})}
    )
    found, said = probe([listed[0], listed[2]._replace(config=broken)])
    assert [m.trial.key for m in found.measured] == [listed[0].key]
    assert said[-1].startswith(f"warning: {listed[2].key} (channels=32 dilation=1) was not measured: ")


def test_a_process_that_dies_says_so(listed, monkeypatch):
    monkeypatch.setattr(probing, "EACH", 1)
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setattr(probing, "MODULE", "rayseg.train.none")
    with pytest.raises(TrainingError, match="No module named"):
        probe(listed)


@pytest.mark.slow
def test_trials_of_two_workers_are_measured_by_two_processes_each(listed, monkeypatch):
    monkeypatch.setattr(probing, "EACH", 1)
    two = [
        t._replace(config=t.config.model_copy(update={"train": t.config.train.model_copy(update={"workers": 2})}))
        for t in listed
    ]
    found, _ = probe(two, concurrent=1, workers=2)
    assert len(found.measured) == 1
    assert found.measured[0].pace.step_s > 0

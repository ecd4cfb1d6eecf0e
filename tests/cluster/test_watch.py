"""What a driver makes of its trials' commits: figures that were never told, and runs that begin from a donor's."""

import json
import threading
import time

import pytest
import torch

from rayseg import config as configs
from rayseg.cluster.watch import begin_from, missed, room_for
from rayseg.errors import CheckpointError, ClusterError
from rayseg.schema import to_dict
from rayseg.train import commit
from rayseg.train.review import EVALUATION, State


def config(**settings):
    plain = {
        "data": {"shards": "/s"},
        "head": {"name": "fcn"},
        "augment": {"crop_px": [48, 48]},
        "train": {"steps": 8, "batch": 4, "eval_every": 2},
    }
    return configs.from_dict(configs.merged(plain, settings))


CURSOR = {"samples": 24, "epoch": 0, "offset": 0, "global_batch": 4, "seed": 0}


def write(run_dir, step, *, evaluated=True, miou=0.5):
    tensors = {"model": {"w": torch.full((3,), float(step))}, "optimizer": {"w": torch.full((3,), step / 10)}}
    progress = State(step=step, miou=miou, best_miou=0.7, best_step=2, pixel_accuracy=0.9).model_dump()
    state = {"config": to_dict(config()), "cursor": CURSOR, "progress": progress}
    commit.write(run_dir, step, tensors, state, {EVALUATION: b"arrays"} if evaluated else {})


def test_figures_that_were_committed_and_not_told(tmp_path):
    for step, evaluated in ((2, True), (4, True), (5, False), (6, True)):
        write(tmp_path, step, evaluated=evaluated, miou=step / 10)
    assert [(f["step"], f["miou"], f["best_miou"]) for f in missed(tmp_path, 2)] == [(4, 0.4, 0.7), (6, 0.6, 0.7)]
    assert [f["step"] for f in missed(tmp_path, 2, before=6)] == [4]
    assert missed(tmp_path, 6) == missed(tmp_path / "nothing", 0) == []
    (commit.path_of(tmp_path, 6) / "model.safetensors").write_bytes(b"damaged")
    assert [f["step"] for f in missed(tmp_path, 2)] == [4]


def test_a_run_begins_with_its_donors_weights_and_momentum_and_its_own_config(tmp_path):
    donor, clone = tmp_path / "donor", tmp_path / "clone"
    write(donor, 2)
    write(donor, 4, miou=0.6)
    own = to_dict(config(**{"optim.lr": 0.123}))
    assert begin_from(donor, 4, clone, own) == 4
    found = commit.newest(clone)
    assert found.step == 4
    assert found.state["config"] == own
    listed = [json.loads((commit.path_of(at, 4) / "MANIFEST.json").read_text())["files"] for at in (donor, clone)]
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert listed[0][name] == listed[1][name]
    assert listed[0]["state.json"] != listed[1]["state.json"]
    assert torch.equal(commit.tensors(found, "model")["w"], torch.full((3,), 4.0))
    assert (found.state["progress"]["miou"], found.state["progress"]["seconds"]) == (0.6, 0.0)
    commit.read(commit.path_of(donor, 4))  # the donor's is whole as before


def test_a_commit_that_is_being_written_is_waited_for_and_one_that_is_gone_replaced_by_the_newest(tmp_path):
    donor = tmp_path / "donor"
    write(donor, 2)
    writer = threading.Thread(target=lambda: (time.sleep(0.5), write(donor, 4)))
    writer.start()
    assert begin_from(donor, 4, tmp_path / "a", to_dict(config())) == 4
    writer.join()
    write(donor, 8)
    commit.prune(donor, keep_last=1)
    assert begin_from(donor, 4, tmp_path / "b", to_dict(config())) == 8


def test_a_donor_without_a_commit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rayseg.cluster.watch.WRITTEN_S", 0.1)
    with pytest.raises(CheckpointError, match="no whole commit to begin with"):
        begin_from(tmp_path / "donor", 4, tmp_path / "clone", to_dict(config()))


@pytest.mark.parametrize(
    ("workers", "cores", "concurrent", "at_once", "each"),
    [(1, 2, None, 2, 1), (1, 8, 2, 2, 4), (2, 2, None, 1, 1), (2, 8, 2, 2, 2), (2, 9, 2, 2, 2), (1, 2, 1, 1, 2)],
)
def test_trials_at_once_share_the_cores_without_taking_one_twice(workers, cores, concurrent, at_once, each):
    resources = room_for(config(**{"train.workers": workers}), {"CPU": cores}, concurrent)
    assert (resources.concurrent, resources.cpus_per_worker) == (at_once, each)
    assert resources.concurrent * resources.workers * resources.cpus_per_worker <= cores


def test_what_does_not_fit_is_refused():
    with pytest.raises(ClusterError, match="4 workers with 1 CPU each do not fit into 2 CPUs"):
        room_for(config(**{"train.workers": 4}), {"CPU": 2})

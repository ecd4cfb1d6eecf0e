"""Starting from a trained run: its weights and no others, fresh classifiers where the classes differ, frozen norms."""

import json
import shutil

import pytest
import torch
from tiny_run import TINY
from torch.nn.modules.batchnorm import _BatchNorm

from rayseg import config as configs
from rayseg import segmenter
from rayseg.errors import CheckpointError, UsageError
from rayseg.schema import to_dict
from rayseg.tracking import NullTracker
from rayseg.train import commit, review, start
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime


def train(config, run_dir, runtime=None):
    lines = []
    fit(config, runtime or LocalRuntime(run_dir, "cpu"), NullTracker(), show=lines.append)
    return lines


@pytest.fixture(scope="module")
def trained(tiny_shards, tmp_path_factory):
    """Build a run of two evaluations, the first of which is called the best: newest and best differ."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    settings = {"data.shards": str(tiny_shards), "train.steps": 2, "train.eval_every": 1, "optim.lr": 0.05}
    train(configs.from_dict(configs.merged(TINY, settings)), folder)
    return folder


def best_weights(run_dir):
    return commit.tensors(review.best_commit(run_dir), "model")


def no_step(run_dir):
    """Keep a run from changing its weights: the learning rate is too small for float32 to see, statistics frozen."""
    return {"start_from": str(run_dir), "train__freeze_norm": True, "optim__lr": 1e-30, "train__steps": 1}


def test_a_run_starts_with_the_best_weights_of_another(run_config, trained, tmp_path):
    lines = train(run_config(**no_step(trained), train__eval_every=1), tmp_path)
    before, after = best_weights(trained), commit.tensors(commit.newest(tmp_path), "model")
    assert before.keys() == after.keys()
    assert [n for n in before if not torch.allclose(before[n].double(), after[n].double(), rtol=0, atol=1e-20)] == []
    assert any(line.startswith("starting from step") and "fresh" not in line for line in lines)


def test_the_start_is_read_once_and_not_at_a_resume(run_config, trained, tmp_path):
    """Paused after a step and resumed without the first run there: bit for bit what an undisturbed run gives."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    config = run_config(start_from=str(copy), train__steps=4, train__eval_every=4)
    train(config, tmp_path / "straight")

    class Pausing(LocalRuntime):
        def stop(self):
            return "pause"

    train(config, tmp_path / "paused", Pausing(tmp_path / "paused", "cpu"))
    shutil.rmtree(copy)
    lines = train(config, tmp_path / "paused")
    assert not any("starting from" in line for line in lines)
    one, two = (commit.tensors(commit.newest(tmp_path / name), "model") for name in ("straight", "paused"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def small(num_classes, **head):
    mapping = {"name": "gald", "channels": 16, "kernel_size": 3, "dilation": 1} | head
    plain = {"backbone": {"name": "resnet10t", "output_stride": 16}, "head": mapping, "num_classes": num_classes}
    return segmenter.build(segmenter.parse(segmenter.Config, plain, "test"))


def test_a_commit_can_be_named_itself(trained):
    for path in commit.commits(trained):
        model, lines = small(11), []
        start.load_weights(model, str(path), lines.append)
        saved = commit.tensors(commit.read(path), "model")
        assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
        assert str(path) in lines[0]


def test_other_classes_leave_the_classifiers_fresh_and_name_them(trained):
    model, lines = small(7), []
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start.load_weights(model, str(trained), lines.append)
    expected = {"head.classify.weight", "head.classify.bias", "auxiliary.4.weight", "auxiliary.4.bias"}
    saved = best_weights(trained)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name in expected else saved[name]), name
    assert all(name in lines[0] for name in expected)
    assert "fresh for 7 classes" in lines[0]


def test_another_model_is_refused(trained):
    with pytest.raises(CheckpointError, match=r"weights do not fit the model: head\."):
        start.load_weights(small(11, channels=32), str(trained), print)
    without = small(11)
    without.auxiliary = None
    with pytest.raises(CheckpointError, match="auxiliary"):
        start.load_weights(without, str(trained), print)


@pytest.mark.parametrize(
    ("damage", "says"), [("gone", "no such folder"), ("empty", "no evaluation yet"), ("cut", "not what was written")]
)
def test_what_is_no_run_is_refused(trained, tmp_path, damage, says):
    path = tmp_path / "run"
    if damage == "empty":
        path.mkdir()
    if damage == "cut":
        path = tmp_path / "commit"
        shutil.copytree(review.best_commit(trained).path, path)
        (path / "model.safetensors").write_bytes(b"1")
    with pytest.raises(CheckpointError, match=says):
        start.load_weights(small(11), str(path), print)


def test_pretrained_weights_beside_a_start_are_refused(run_config):
    for settings in ({"backbone__pretrained": True}, {"backbone__weights": "x.pth"}):
        with pytest.raises(UsageError, match="would be overwritten"):
            run_config(start_from="/run", **settings)


def test_a_start_left_to_the_user_is_asked_for(run_config):
    with pytest.raises(UsageError, match="--set start_from=RUN"):
        run_config(start_from="")


def test_a_relative_start_is_taken_from_here(run_config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = run_config(start_from="runs/one")
    assert config.start_from == str(tmp_path / "runs" / "one")
    assert configs.from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_frozen_norm_keeps_what_it_has_while_the_rest_trains(run_config, trained, tmp_path):
    """Across an evaluation in between, which puts the model into evaluation mode and back."""
    settings = {"start_from": str(trained), "train__steps": 4, "train__eval_every": 2}
    train(run_config(train__freeze_norm=True, **settings), tmp_path / "frozen")
    train(run_config(**settings), tmp_path / "free")
    before = best_weights(trained)
    norms = {
        f"{name}.{leaf}"
        for name, module in small(11).named_modules()
        if isinstance(module, _BatchNorm)
        for leaf in ("weight", "bias", "running_mean", "running_var")
    }
    frozen, free = (commit.tensors(commit.newest(tmp_path / run), "model") for run in ("frozen", "free"))
    changed = {
        run: {k for k in before if not torch.equal(before[k], w[k])} for run, w in (("frozen", frozen), ("free", free))
    }
    assert not changed["frozen"] & norms
    assert changed["free"] >= norms
    assert changed["frozen"] >= {name for name in before if name.endswith("conv1.weight")}


def test_freezing_what_is_not_there_is_refused():
    with pytest.raises(UsageError, match="no batch norm"):
        start.freeze_norm(torch.nn.Conv2d(3, 3, 1))


# --- a backbone that is held ----------------------------------------------------------------------------------------


def held(model):
    return {name for name, p in model.backbone.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    ("wanted", "layers"),
    [
        ("none", ()),
        (1, ("conv1", "bn1", "layer1")),
        (3, ("conv1", "bn1", "layer1", "layer2", "layer3")),
        ("all", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")),
    ],
)
def test_the_first_feature_maps_of_a_resnet_are_its_first_stages(wanted, layers):
    model = small(11)
    start.freeze_backbone(model, wanted)
    expected = {n for n, _ in model.backbone.named_parameters() if n.removeprefix("model.").startswith(layers)}
    assert held(model) == (expected if layers else set())
    norms = {n: m for n, m in model.backbone.named_modules() if isinstance(m, _BatchNorm)}
    assert len(norms) > 5
    assert {n for n, m in norms.items() if not m.training} == {n for n in norms if f"{n}.weight" in held(model)}
    assert all(module.training for module in model.head.modules())


@pytest.mark.parametrize("name", ["hrnet_w18_small", "convnext_atto", "efficientnet_lite0"])
def test_what_is_held_decides_the_first_map_and_no_more(name):
    """Nudging what is held moves the first feature map, and nudging all else does not."""
    plain = {"backbone": {"name": name, "output_stride": 32}, "head": {"name": "fcn"}, "num_classes": 3}
    torch.manual_seed(0)
    model = segmenter.build(segmenter.parse(segmenter.Config, plain, "test")).eval()
    start.freeze_backbone(model, 1)
    frozen, images = held(model), torch.randn(1, 3, 64, 64)
    assert 0 < len(frozen) < len(list(model.backbone.parameters()))
    with torch.no_grad():
        first, last = (model.backbone(images)[at] for at in (0, -1))
        for name, parameter in model.backbone.named_parameters():
            if name not in frozen:
                parameter.add_(0.1 * torch.randn_like(parameter))
        assert torch.equal(model.backbone(images)[0], first)
        assert not torch.equal(model.backbone(images)[-1], last)
        for name, parameter in model.backbone.named_parameters():
            if name in frozen:
                parameter.add_(0.1 * torch.randn_like(parameter))
        assert not torch.equal(model.backbone(images)[0], first)


def test_more_maps_than_there_are_is_refused():
    plain = {"backbone": {"name": "resnet10t", "output_stride": 32}, "head": {"name": "fcn"}, "num_classes": 3}
    model = segmenter.build(segmenter.parse(segmenter.Config, plain, "test"))
    model.backbone.spec = model.backbone.spec._replace(channels=(1, 2))
    with pytest.raises(UsageError, match="has 2 feature maps"):
        start.freeze_backbone(model, 3)


def test_a_held_backbone_stays_and_the_rest_trains(run_config, trained, tmp_path):
    settings = {"start_from": str(trained), "train__steps": 4, "train__eval_every": 2, "train__freeze_backbone": 2}
    train(run_config(**settings), tmp_path)
    before, after = best_weights(trained), commit.tensors(commit.newest(tmp_path), "model")
    stays = ("backbone.model.conv1", "backbone.model.bn1", "backbone.model.layer1", "backbone.model.layer2")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in changed if name.startswith(stays)}
    assert {name for name in before if name.endswith(".weight") and not name.startswith(stays)} <= changed

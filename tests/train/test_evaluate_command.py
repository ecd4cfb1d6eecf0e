"""`rayseg evaluate`: what it prints of a run and of one commit, and what it says of bad input."""

import json
import math

import numpy as np
import pytest
from tiny_run import TINY

from rayseg import cli
from rayseg import config as configs
from rayseg.data import card as cards
from rayseg.data import shards as sharding
from rayseg.data.reader import ShardSet
from rayseg.errors import CheckpointError
from rayseg.tracking import NullTracker
from rayseg.train import commit, inference, review, views
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime


@pytest.fixture(scope="module")
def trained(tiny_shards, tmp_path_factory):
    """A run with two evaluations, and a commit without one."""
    folder = tmp_path_factory.mktemp("trained")
    train = {"train.steps": 6, "train.eval_every": 4, "train.commit_every": 5, "train.shown_images": 0}
    config = configs.from_dict(configs.merged(TINY, {"data.shards": str(tiny_shards), **train}))
    fit(config, LocalRuntime(folder, "cpu"), NullTracker(), show=lambda line: None)
    return folder


@pytest.fixture
def rayseg(capsys):
    """Call the command line; give the exit code, and what it printed and said."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.run(cli.rayseg, [str(a) for a in arguments])
        return ended.value.code, *capsys.readouterr()

    return call


def error_of(found):
    """Give the exit code and the one line of the error, behind the lines of progress."""
    code, out, err = found
    lines = [line for line in err.splitlines() if not line.startswith("evaluating")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert not out
    return code, lines[0]


def test_a_table_to_read(trained, rayseg):
    code, out, _ = rayseg("evaluate", trained)
    lines = out.splitlines()
    figures = {line.split()[0]: float(line.split()[1]) for line in lines[: lines.index("")] if "_" in line.split()[0]}
    whole = json.loads(rayseg("evaluate", trained, "--json")[1])
    assert code == 0
    assert lines[0].startswith("miou")
    for name in ("pixel_accuracy", "frequency_weighted_iou", "boundary_f1_3px", "boundary_f1_12px", "boundary_iou"):
        assert figures[name] == pytest.approx(whole[name], abs=5e-5)
    assert next(line for line in lines if line.startswith("boundary_f1_12px")).endswith("within 1 px here")
    table = lines[lines.index("") + 1 :]
    columns = ["IoU", "recall", "bIoU", "F1 3px", "F1 5px", "F1 9px", "F1 12px", "3px present", "images", "pixels"]
    assert table[0].split() == " ".join(["class", *columns]).split()
    rows = {line.split()[0]: line.split()[1:] for line in table[1:12]}
    assert rows.keys() == whole["per_class"].keys()
    for name, row in rows.items():
        columns = whole["per_class"][name]
        assert len(row) == len(columns)
        for text, value in zip(row, columns.values(), strict=True):
            assert (text == "-") == (value is None)
            if value is not None:
                assert float(text.replace(",", "")) == pytest.approx(value, abs=5e-5)
    assert sum(int(row[-1].replace(",", "")) for row in rows.values()) == sum(
        row["pixels"] for row in whole["per_class"].values()
    )


def test_json_has_everything(trained, rayseg):
    whole = json.loads(rayseg("evaluate", trained, "--json")[1])
    assert whole["miou"] == review.read_summary(trained).best_miou
    assert whole["images"] == 5
    assert whole["radii_px"] == {"3px": "1 px", "5px": "1 px", "9px": "1 px", "12px": "1 px"}
    defined = [row["IoU"] for row in whole["per_class"].values() if row["IoU"] is not None]
    assert whole["miou"] == pytest.approx(np.mean(defined), abs=1e-12)
    f1 = [row["F1 3px"] for row in whole["per_class"].values()]
    assert whole["boundary_f1_3px"] == pytest.approx(np.mean(f1), abs=1e-12)


class Pausing(LocalRuntime):
    left = 5

    def stop(self):
        self.left -= 1
        return "pause" if not self.left else None


def test_a_commit_is_evaluated_as_it_is(trained, rayseg, tmp_path, other_shards):
    """The best one, and one that the run itself never evaluated."""
    config = inference.config_of(review.best_commit(trained))
    fit(config, Pausing(tmp_path, "cpu"), NullTracker(), show=lambda line: None)
    judged, latest = commit.commits(tmp_path)
    of_run, of_best, of_latest = (json.loads(rayseg("evaluate", p, "--json")[1]) for p in (tmp_path, judged, latest))
    assert {**of_run, "latency_ms": 0} == {**of_best, "latency_ms": 0}
    assert of_best["miou"] == pytest.approx(commit.read(judged).state["progress"]["miou"], abs=1e-12)
    assert not (latest / commit.EVALUATION).exists()
    assert of_latest["miou"] != of_best["miou"]
    code, line = error_of(rayseg("evaluate", latest, "--shards", other_shards(renamed)))
    assert (code, "'banana'" in line) == (4, True)


def test_other_shards_and_another_split(trained, tiny_shards, rayseg):
    own = json.loads(rayseg("evaluate", trained, "--json")[1])
    assert json.loads(rayseg("evaluate", trained, "--shards", tiny_shards, "--json")[1])["miou"] == own["miou"]
    assert json.loads(rayseg("evaluate", trained, "--split", "train", "--json")[1])["images"] == 24


def test_classes_that_never_occur_are_named(trained, rayseg, monkeypatch):
    """Both kinds: in neither, so undefined; predicted alone, so 0. Each in one line."""
    real = ShardSet.read

    def few(self, position):
        sample = real(self, position)
        return sample._replace(mask=np.where(sample.mask == 0, 0, self.ignore_index).astype(np.uint8))

    monkeypatch.setattr(ShardSet, "read", few)
    code, out, _ = rayseg("evaluate", trained)
    whole = json.loads(rayseg("evaluate", trained, "--json")[1])
    assert code == 0
    never, only = whole["never_occurs"], whole["only_predicted"]
    names = list(whole["per_class"])
    assert sorted(never + only) == sorted(names[1:])
    said = out.splitlines()
    if never:
        assert f"never occur, so they are left out of the means of IoU and recall: {', '.join(never)}" in said
    if only:
        assert f"not in this split but predicted, so their IoU is 0: {', '.join(only)}" in said
    assert all(whole["per_class"][name]["IoU"] is None for name in never)
    assert whole["miou"] == pytest.approx(whole["per_class"][names[0]]["IoU"] / (1 + len(only)), abs=1e-12)
    assert said[0].split()[2:] == ["over", str(1 + len(only)), "of", "11", "classes"]


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("place", ["none", "none/commits/step-00000004"])
def test_a_run_that_does_not_exist(rayseg, tmp_path, place):
    code, line = error_of(rayseg("evaluate", tmp_path / place))
    assert code == 4
    assert "no such run or commit" in line
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run(rayseg, tmp_path):
    code, line = error_of(rayseg("evaluate", tmp_path))
    assert (code, "no evaluation yet" in line) == (4, True)


def test_a_commit_that_is_not_whole(trained, rayseg, tmp_path):
    source = review.best_commit(trained).path
    copy = tmp_path / "commits" / source.name
    copy.mkdir(parents=True)
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "model.safetensors").write_bytes(b"x" + (copy / "model.safetensors").read_bytes()[1:])
    code, line = error_of(rayseg("evaluate", copy))
    assert (code, "model.safetensors is not what was written" in line) == (4, True)


@pytest.fixture(scope="module")
def other_shards(tmp_path_factory):
    """Give the drawn scenes under other class names, and with a class less."""

    def written(change):
        whole = cards.load("scenes").model_dump(mode="json", exclude_none=True)
        whole["generated"] |= {"height": 48, "width": 64}
        whole["splits"] = {"train": {"count": 2}, "val": {"count": 2}}
        change(whole["classes"])
        out = tmp_path_factory.mktemp("other") / "shards"
        sharding.write(cards.from_dict(whole), None, out, workers=1)
        return out

    return written


def renamed(classes):
    classes[3]["name"] = "banana"


def test_shards_of_other_classes(trained, rayseg, other_shards):
    names = inference.subject(trained, None, None).shards.class_names
    code, line = error_of(rayseg("evaluate", trained, "--shards", other_shards(renamed)))
    assert code == 4
    assert f"its classes are others than the shards': '{names[3]}' where they have 'banana'" in line


def test_shards_of_another_number_of_classes(trained, rayseg, monkeypatch):
    fewer = inference.open_shards(inference.config_of(review.best_commit(trained)).data.shards, "val")
    fewer.num_classes, fewer.class_names = 10, fewer.class_names[:10]
    monkeypatch.setattr(inference, "open_shards", lambda *given: fewer)
    code, line = error_of(rayseg("evaluate", trained))
    assert (code, "it tells 11 classes, and the shards have 10" in line) == (4, True)


def test_an_empty_split(trained, rayseg, monkeypatch):
    real = inference.open_shards

    def empty(*given):
        whole = real(*given)
        return ShardSet(whole._store, whole.card, whole.index.where(np.zeros(len(whole), bool)))

    monkeypatch.setattr(inference, "open_shards", empty)
    for options in ([], ["--tta-table"]):
        code, line = error_of(rayseg("evaluate", trained, *options))
        assert (code, "the split is empty" in line) == (3, True)


def test_a_split_that_is_not_there(trained, rayseg):
    code, line = error_of(rayseg("evaluate", trained, "--split", "vall"))
    assert (code, "did you mean 'val'" in line) == (3, True)


def broken(real):
    def scores(model, images, config):
        found = real(model, images, config)
        found[0, 1, 2, 3] = math.nan
        return found

    return scores


@pytest.mark.parametrize("options", [[], ["--tta-table"], ["--flip"]])
def test_logits_that_are_not_finite(trained, rayseg, monkeypatch, options):
    before = sorted(trained.rglob("*"))
    monkeypatch.setattr(views, "scores", broken(views.scores))
    code, line = error_of(rayseg("evaluate", trained, *options))
    assert code == 4
    assert "the logits are not finite on image" in line
    assert str(review.best_commit(trained).path) in line
    assert sorted(trained.rglob("*")) == before


def test_predicting_with_logits_that_are_not_finite_writes_nothing(trained, tmp_path, monkeypatch):
    import cv2

    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((30, 40, 3), np.uint8))
    monkeypatch.setattr(views, "scores", broken(views.scores))
    with pytest.raises(CheckpointError, match="not finite on image 'x'"):
        list(inference.predict_images(trained, [tmp_path / "x.png"], tmp_path / "out"))
    assert not (tmp_path / "out").exists()

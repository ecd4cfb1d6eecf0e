"""The command line as a user types it: one line for a mistake, the right exit code, nothing half-written."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from rayseg import cli
from rayseg.data import open_shards
from rayseg.tracking import NullTracker
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

RAYSEG = [str(Path(sys.executable).with_name("rayseg"))]


@pytest.fixture(scope="module")
def rayseg(tmp_path_factory):
    """Run a command in a home of its own; give its exit code, stdout and stderr."""
    home = tmp_path_factory.mktemp("home")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY", "MLFLOW"))}
    environment |= {"RAYSEG_HOME": str(home / "rayseg"), "HOME": str(home)}

    def call(*arguments, **options):
        done = subprocess.run(
            [*RAYSEG, *map(str, arguments)], capture_output=True, text=True, env=environment, **options
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def raw(tmp_path):
    """A tiny raw data set in the SegNet layout, whole."""
    root = tmp_path / "raw"
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for i in range(2):
            image = np.full((24, 32, 3), 40 * i, np.uint8)
            cv2.imwrite(str(root / split / f"{split}{i}.png"), image)
            cv2.imwrite(str(root / f"{split}annot" / f"{split}{i}.png"), np.full((24, 32), i, np.uint8))
    return root


def missing_folder(root):
    shutil.rmtree(root / "valannot")
    return "valannot", "missing folder"


def other_size(root):
    cv2.imwrite(str(root / "trainannot" / "train1.png"), np.zeros((24, 31), np.uint8))
    return "train1.png", "24x31"


def label_outside(root):
    cv2.imwrite(str(root / "valannot" / "val0.png"), np.full((24, 32), 12, np.uint8))
    return "val0.png", "label 12"


@pytest.mark.parametrize("damage", [missing_folder, other_size, label_outside])
def test_shard_refuses_bad_data_in_one_line_and_leaves_nothing(rayseg, raw, tmp_path, damage):
    """What is finished before the fault waits in a hidden folder, and it is said where."""
    names = damage(raw)
    code, out, err = rayseg("shard", "camvid", "--root", raw, "--out", tmp_path / "shards")
    *waits, line = [line for line in err.splitlines() if not line.startswith("sharding camvid")]
    assert code == 3, err
    assert line.startswith("error: ")
    assert all(name in line for name in names), line
    assert not out
    staged = list(tmp_path.glob(".shards.*")) if damage is label_outside else []
    assert waits == [f"finished shards wait in {stage}: the same command goes on from them" for stage in staged]
    assert sorted(tmp_path.iterdir()) == [*staged, raw]


def test_shard_verify_inspect(rayseg, raw, tmp_path):
    shards = tmp_path / "shards"
    code, out, err = rayseg("shard", "camvid", "--root", raw, "--out", shards)
    assert code == 0, err
    assert "train 2, val 2 samples" in out
    assert "train: 2 samples where the card expects 367" in out  # CamVid has 367 and 101: another number is said
    assert f"look at it: {shards}/audit.html" in out
    assert rayseg("verify", shards)[:2] == (0, f"{shards}: whole\n")
    code, out, _ = rayseg("inspect", shards)
    assert code == 0
    assert f"look at it: {shards}/audit.html" in out
    shares = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "%" in line}
    assert shares["Sky"] == shares["Building"] == ["50.00%", "50.00%"]
    assert shares["(ignored)"] == ["0.00%", "0.00%"]
    tar = next(shards.glob("train*.tar"))
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    other = next(shards.glob("val*.tar"))
    other.write_bytes(other.read_bytes()[:512])
    code, out, err = rayseg("verify", shards)
    assert code == 3
    assert tar.name in err.splitlines()[-1]
    assert out.startswith(f"also damaged: {other}: truncated at 512 of ")


def test_the_raw_set_is_looked_for_where_all_of_them_lie(raw, tmp_path, monkeypatch):
    """Without --root: the card's folder in RAYSEG_DATA, as `rayseg cards` looks for it."""
    raw.rename(tmp_path / "camvid")
    monkeypatch.setenv("RAYSEG_DATA", str(tmp_path))
    arguments = ["shard", "camvid", "--out", str(tmp_path / "shards")]
    CliRunner().invoke(cli.rayseg, arguments, catch_exceptions=False, standalone_mode=False)
    assert len(open_shards(tmp_path / "shards", "train")) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["shardd"], 2, "did you mean 'shard'"),
        (["shard", "camvidd", "--root", ".", "--out", "x"], 2, "did you mean 'camvid'"),
        (["shard", "camvid", "--out", "x"], 2, "--root"),
        (["verify", "/nonexistent"], 3, "no such folder"),
        (["models", "--head", "gadl"], 2, "did you mean 'gald'"),
        (["models", "--size", "3x0x4"], 2, "3xHEIGHTxWIDTH"),
        (["models", "--backbone", "resnet181"], 2, "resnet18"),
        (["train", "--recipe", "gald/scene"], 2, "did you mean 'gald/scenes'"),
        (["train", "--set", "optim.lr"], 2, "a.b=c"),
        (["train", "--set", "optim.lrr=1", "--shards", "/x"], 2, "did you mean 'lr'"),
        (["train", "--dataset", "camvid"], 3, "rayseg shard camvid"),
        (["evaluate", "/nonexistent"], 4, "no such run or commit"),
        (["submit", "jobs/none.py"], 5, "rayseg up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(rayseg, arguments, code, says, tmp_path):
    found, out, err = rayseg(*arguments, cwd=tmp_path)
    lines = err.splitlines()
    assert (found, len(lines)) == (code, 1), err
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert len(lines[0]) <= 300
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["head.name=gadl"], "did you mean 'gald'"),
        (["head.kernal_size=3"], "did you mean 'kernel_size'"),
        (["head.name=psp", "head.kernel_size=3"], "unknown key 'kernel_size' (head): valid: bins"),
        (["head.kernel_size=4"], "kernel_size = 4 has no centre"),
        (["head.dilation=0"], "dilation = 0"),
        (["head.name=fcn", "head.channels=0"], "channels = 0"),
        (["backbone.nam=resnet18"], "did you mean 'name'"),
        (["backbone.output_stride=7"], "8, 16 or 32"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_model_that_cannot_be_is_one_line(capsys, settings, says):
    arguments = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(SystemExit) as ended:
        cli.run(cli.rayseg, ["train", "--shards", "/nonexistent", *arguments])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error: ")
    assert says in err


def test_one_class_is_none(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(cli.rayseg, ["models", "--classes", "1"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'--classes': 1" in line


def test_weights_that_pickle_code_are_one_line(rayseg, tiny_shards, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(pickle.dumps(print))  # of another protocol than torch's, which warns about it
    code, _, err = rayseg(
        "train", "--shards", tiny_shards, "--run", tmp_path / "run", "--set", f"backbone.weights={weights}"
    )
    assert (code, len(err.splitlines())) == (4, 1), err
    assert str(weights) in err


def test_models_prints_parameters_and_flops(rayseg):
    code, out, _ = rayseg("models", "--head", "fcn", "--backbone", "resnet18", "--classes", "11", "--json")
    assert code == 0
    cost = json.loads(out)
    assert cost["backbone_params"] == 11_176_512
    assert cost["params"] == cost["backbone_params"] + cost["head_params"] + cost["aux_params"]


def test_closed_stdout_is_no_traceback(rayseg):
    done = subprocess.run(
        ["bash", "-c", f"{RAYSEG[0]} models --head fcn --backbone resnet18 | true"], capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def trained(tiny_shards, tmp_path_factory):
    """A run of two steps."""
    from rayseg import config as configs

    run_dir = tmp_path_factory.mktemp("run")
    plain = {
        "data": {"shards": str(tiny_shards)},
        "backbone": {"name": "resnet10t", "output_stride": 16},
        "head": {"name": "fcn"},
        "augment": {"crop_px": [48, 48]},
        "train": {"steps": 2, "batch": 4, "eval_every": 2, "precision": "fp32"},
    }
    summary = fit(configs.from_dict(plain), LocalRuntime(run_dir, "cpu"), NullTracker(), show=lambda line: None)
    return run_dir, summary


def invoke(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_evaluate_gives_what_the_run_found(trained):
    run_dir, summary = trained
    metrics = json.loads(invoke(cli.evaluate, run_dir, "--json").stdout)
    assert metrics["miou"] == pytest.approx(summary.best_miou, abs=1e-9)
    assert invoke(cli.evaluate, run_dir).stdout.startswith("miou")


def test_predict_writes_masks_and_overlays(trained, tmp_path):
    image = tmp_path / "street.png"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (37, 53, 3), np.uint8))
    result = invoke(cli.predict, trained[0], image, "--out", tmp_path / "out")
    assert result.exit_code == 0
    mask = cv2.imread(str(tmp_path / "out" / "street.mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (37, 53)
    assert mask.max() < 11
    assert cv2.imread(str(tmp_path / "out" / "street.overlay.png")).shape == (37, 53, 3)


def test_predict_checks_every_image_first(trained, rayseg, tmp_path):
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    cv2.imwrite(str(good), np.zeros((20, 20, 3), np.uint8))
    bad.write_text("<html>")
    code, _, err = rayseg("predict", trained[0], good, bad, "--out", tmp_path / "out")
    assert code == 3
    assert "b.png" in err
    assert not (tmp_path / "out").exists()

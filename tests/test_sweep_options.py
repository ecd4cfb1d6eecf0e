"""A sweep's command line: what would be ignored or cannot be read is one line, before anything is written."""

import pytest

from rayseg import cli
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, Sweep

SWEEP = Sweep(
    name="tiny",
    about="A sweep to mistype.",
    picture=("head.kernel_size", "head.dilation"),
    presets={
        "demo": Preset(
            about="a test",
            recipe="gald/scenes",
            settings={},
            space={"head.kernel_size": choice(3, 5), "head.dilation": choice(1, 2)},
            algorithm="grid",
        ),
        "ladder": Preset(
            about="a ladder",
            recipe="gald/scenes",
            settings={},
            space={"head.kernel_size": choice(3, 5)},
            algorithm="ladder",
            trials=2,
            rungs=({"train.steps": 2}, {"train.steps": 4}),
        ),
    },
)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Call the job with arguments, in an empty home; give exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setenv("RAYSEG_HOME", str(tmp_path / "home"))
        monkeypatch.setattr("sys.argv", ["tiny_sweep.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.sweep_job(SWEEP)
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--price", "2"], 2, "would be ignored without --plan (--price)"),
        (["--plan", "--resume"], 2, "would be ignored with --plan"),
        (["--plan", "--name", "x"], 2, "would be ignored with --plan"),
        (["--search", "head.kernel_size"], 2, "cannot read 'head.kernel_size'"),
        (["--algorithm", "tpp"], 2, "'tpp' is not one of"),
        (["--preset", "dmo"], 2, "did you mean 'demo'"),
        (["--algorithm", "asha", "--objective", "parameters"], 2, "parameters would be ignored with --algorithm asha"),
        (["--algorithm", "pbt", "--objective", "latency_ms"], 2, "latency_ms would be ignored with --algorithm pbt"),
        (["--top", "2"], 2, "would be ignored without --seeds (--top): give both: --seeds 3"),
        (["--seeds", "1"], 2, "1 is not in the range x>=2"),
        (["--seeds", "2", "--top", "9"], 2, "finals of 9 with 4 trials (--top)"),
        (
            ["--seeds", "2", "--algorithm", "pbt"],
            2,
            "would be ignored with --algorithm pbt: its members go on from each other (--seeds)",
        ),
        (["--seeds", "2", "--search", "seed=1,2"], 2, "the seed itself is searched (--seeds)"),
        (["--preset", "ladder", "--set", "train.steps=9"], 2, "every rung of the ladder sets it"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_a_mistake_is_one_line(call, tiny_shards, arguments, code, says, tmp_path):
    found, _, err = call("--shards", str(tiny_shards), *arguments)
    (line,) = err.splitlines()
    assert (found, line.startswith("error: ")) == (code, True)
    assert says in line
    assert not list((tmp_path / "home").glob("runs/*"))


def test_warm_start_needs_a_server(call, tiny_shards, monkeypatch, tmp_path):
    monkeypatch.delenv("RAYSEG_TRACKING_URI", raising=False)
    code, _, err = call("--shards", str(tiny_shards), "--warm-start")
    assert (code, err.splitlines()) == (
        5,
        ["error: MLflow is not up, and earlier runs are read from it (--warm-start): start it: rayseg up"],
    )
    assert not list((tmp_path / "home").glob("runs/*"))


def test_help_names_every_option_and_algorithm(call):
    code, out, _ = call("--help")
    assert code == 0
    for word in ("--plan", "--price", "--warm-start", "--search", "--objective", "tpe", "hyperband", "bohb", "pbt"):
        assert word in out

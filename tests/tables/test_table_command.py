"""`rayseg table`: what counts as a row's run, mean and spread, the head line, and that --run runs what is missing."""

import json

import numpy as np
import pytest
from tiny_table import RECIPE, TABLE, leave

from rayseg import cli, tables
from rayseg import config as configs
from rayseg.cluster import tabling
from rayseg.cluster.tabling import Wish, read, subject
from rayseg.data import cursor
from rayseg.data.reader import open_shards
from rayseg.sweep.journal import Journal, tell
from rayseg.sweep.trial import trials as trials_of
from rayseg.tables import text
from rayseg.tables.asked import ask, changed, differences


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of the test's own, in which the tiny table is one of the tables, and no server is up."""
    folder = tmp_path / "home"
    monkeypatch.setenv("RAYSEG_HOME", str(folder))
    monkeypatch.delenv("RAYSEG_TRACKING_URI", raising=False)
    monkeypatch.setitem(tables.TABLES, TABLE.name, TABLE)
    (folder / "runs").mkdir(parents=True)
    folder.chmod(0o700)
    return folder


@pytest.fixture
def digests(tiny_shards):
    return tuple(cursor.digest(open_shards(tiny_shards, split).index) for split in ("train", "val"))


def about(tiny_shards, **more):
    return subject(Wish(TABLE.name, RECIPE, shards=str(tiny_shards), **more), lambda line: None)


def config_of(found, row, seed, **settings):
    point = {"head.kernel_size": (3, 5)[row], "seed": seed, **settings}
    return configs.from_dict(configs.merged(found.asked.base.run, point))


def figures(found):
    return read(found, lambda line: None).found.rows


def test_mean_and_spread_are_those_of_the_last_step_over_the_seeds(home, tiny_shards, digests):
    found = about(tiny_shards)
    values = {0: 0.41, 1: 0.44, 5: 0.39}
    for seed, miou in values.items():
        leave(home / "runs" / "sweep" / "trials" / str(seed), config_of(found, 0, seed), digests, miou)
    leave(home / "runs" / "alone", config_of(found, 1, 0), digests, 0.5, tagged=False)
    small, large, other = figures(found)
    assert small.miou == pytest.approx({seed: 100 * miou for seed, miou in values.items()})
    percent = 100 * np.array(list(values.values()))
    assert small.mean == pytest.approx(percent.mean(), abs=1e-12)
    assert small.spread == pytest.approx(np.sqrt(((percent - percent.mean()) ** 2).sum() / 2), abs=1e-12)
    assert (large.mean, large.spread) == (pytest.approx(50.0), None)
    assert (other.mean, other.spread, other.runs) == (None, None, ())
    assert set(figures(about(tiny_shards, seeds=2))[0].miou) == {0, 1}


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize(
    ("settings", "samples", "status"),
    [
        ({"train.steps": 18}, None, "finished"),
        ({}, ("other", "samples"), "finished"),
        ({}, "swapped", "finished"),
        ({"data.val_samples": 3}, None, "finished"),
        ({"optim.lr": 0.04}, None, "finished"),
        ({"head.dilation": 2}, None, "finished"),
        ({}, None, "stopped"),
    ],
)
def test_a_run_of_other_steps_samples_or_settings_never_counts(
    home, tiny_shards, digests, settings, samples, status, tagged
):
    found = about(tiny_shards)
    where = digests[::-1] if samples == "swapped" else samples or digests
    leave(home / "runs" / "it", config_of(found, 0, 0, **settings), where, 0.4, tagged=tagged, status=status)
    assert not any(row.miou for row in figures(found))
    leave(home / "runs" / "right", config_of(found, 0, 0), digests, 0.4, tagged=tagged)
    assert figures(found)[0].miou == pytest.approx({0: 40.0})


def test_a_run_at_the_tracking_server_counts_and_one_of_other_data_does_not(monkeypatch, tiny_shards):
    found = about(tiny_shards)
    asked_for = []

    def answer(uri, tags, curves):
        asked_for.append((uri, tags))
        trial = found.asked.trials()[0]
        steps = trial.config.train.steps
        common = {"rayseg.config": configs.digest(trial.config), "stopped": "finished: 16 steps"}
        run = tabling.Earlier("id", "r", "e", common | {"rayseg.data": found.data}, {"val/miou": {steps: 0.3}}, {})
        return [run, run._replace(tags=common | {"rayseg.data": "other"}, curves={"val/miou": {steps: 0.8}})]

    monkeypatch.setattr(tabling, "earlier", answer)
    monkeypatch.setenv("RAYSEG_TRACKING_URI", "http://127.0.0.1:1")
    assert figures(found)[0].miou == pytest.approx({0: 30.0})
    assert asked_for == [("http://127.0.0.1:1", {"rayseg.data": found.data})]


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_head_line_says_in_words_what_is_otherwise(tiny_shards):
    page = read(about(tiny_shards, settings={"data.val_samples": 3}), lambda line: None)
    body = text.lines(page)
    head = " ".join(" ".join(body).split())
    assert body[1].startswith("NOT COMPARABLE with the paper's figures: ")
    assert "the paper's are of cityscapes val, ours of scenes val" in head
    assert "the paper's runs are of 50000, ours of 16" in head
    assert "ours from random ones" in head
    assert "scenes, the first 3 of val, at step 16" in head
    assert text.plain(page)["comparable"] is False
    assert max(map(len, body[: body.index("")])) <= text.WIDTH


def over(settings):
    return ask(tables.find("gald-2b"), "gald/cityscapes", "anywhere", settings, 1)


def test_the_papers_own_run_is_comparable_and_each_thing_otherwise_is_said():
    assert differences(over({}), "cityscapes") == []
    assert changed(over({})) == []
    assert differences(over({}), "camvid")[0].startswith(
        "other data: the paper's are of cityscapes val, ours of camvid"
    )
    assert differences(over({"train.steps": 40000}), "cityscapes")[0].startswith("other steps: ")
    assert differences(over({"data.val_samples": 9}), "cityscapes")[0].startswith("other images: ")
    assert differences(over({"backbone.pretrained": False}), "cityscapes")[0].startswith("other start: ")
    assert changed(over({"optim.lr": 0.02})) == ["optim.lr"]
    unsaid = ask(tables.find("dgcw-1"), "dgcw/cityscapes", "anywhere", {"train.steps": 100}, 1)
    words = "other steps: the paper gives none, dgcw/cityscapes has 60000, ours are of 100"
    assert differences(unsaid, "cityscapes") == [words]
    assert words in differences(unsaid, "scenes")


def test_every_row_has_both_figures_each_with_its_data_and_steps(home, tiny_shards, digests):
    found = about(tiny_shards)
    for seed, miou in ((0, 0.41), (1, 0.44)):
        leave(home / "runs" / f"s{seed}", config_of(found, 0, seed), digests, miou)
    rows = [line.split() for line in text.lines(read(found, lambda line: None))[-3:]]
    assert rows[0] == ["small", "70.0", "cityscapes", "42.50", "±", "2.12", "2", "scenes", "16"]
    assert rows[1][:5] == ["large", "71.5", "cityscapes", "-", "-"]
    assert " ".join(rows[1]).endswith("no such run yet: --run")
    assert " ".join(rows[2]).endswith("by another command")


# --- running --------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch, home, digests):
    """Stands in the driver's place: notes and leaves each run, `stop` of them and then is interrupted."""
    done = []

    def sweep(sweep, options, *, show):
        preset, folder = sweep.preset(options.preset), home / "runs" / options.name
        made = trials_of(preset, algorithm="grid", count=1, shards=options.shards, settings=options.settings)
        story = tell(folder)
        assert options.resume == (story is not None)
        assert story is None or story.plan["keys"] == [trial.key for trial in made]  # as the driver has it
        if story is None:
            journal = Journal(folder)
            journal.write("plan", {"keys": [trial.key for trial in made], "options": {}})
            journal.close()
        for trial in made:
            if not (folder / "trials" / trial.key).exists():
                if len(done) == sweep_stop[0]:
                    raise KeyboardInterrupt
                done.append((trial.config.head.kernel_size, trial.config.seed))
                leave(folder / "trials" / trial.key, trial.config, digests, 0.2 + 0.01 * len(done))

    sweep_stop = [99]
    monkeypatch.setattr(tabling, "run_sweep", sweep)
    return done, sweep_stop


@pytest.fixture
def call(monkeypatch, capsys, tiny_shards):
    """Call `rayseg table`; give exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["rayseg", "table", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_what_is_missing_is_run_once_and_no_more(home, tiny_shards, digests, trained, call):
    ran, _ = trained
    asked = ("tiny-1", "--recipe", RECIPE, "--shards", str(tiny_shards), "--json")
    leave(home / "runs" / "before", config_of(about(tiny_shards), 0, 0), digests, 0.7)
    code, out, _ = call(*asked, "--run")
    assert (code, ran) == (0, [(5, 0)])
    assert [row["mean"] for row in json.loads(out)["rows"]] == pytest.approx([70.0, 21.0, None])
    assert call(*asked, "--run", "--seeds", "2")[0] == 0
    assert ran == [(5, 0), (3, 1), (5, 1)]
    code, out, _ = call(*asked)
    assert [len(row["seeds"]) for row in json.loads(out)["rows"]] == [2, 2, 0]
    call(*asked, "--run", "--seeds", "2")
    assert len(ran) == 3
    assert all(p.name.startswith(("table-tiny-1-scenes-", "before")) for p in (home / "runs").iterdir())


def test_typed_again_it_goes_on_with_the_sweep_that_it_began(home, tiny_shards, trained, call):
    ran, stop = trained
    asked = ("tiny-1", "--recipe", RECIPE, "--shards", str(tiny_shards), "--run", "--seeds", "2")
    stop[0] = 3
    assert call(*asked)[0] == 130
    stop[0] = 99
    assert call(*asked)[0] == 0
    assert ran == [(3, 0), (5, 0), (3, 1), (5, 1)]
    assert len(list((home / "runs").iterdir())) == 1


@pytest.mark.slow
def test_a_table_is_really_trained(home, tiny_shards, call):
    short = ("--set", "train.steps=4", "--set", "train.eval_every=4")
    code, out, err = call("tiny-1", "--recipe", RECIPE, "--shards", str(tiny_shards), *short, "--run", "--json")
    assert code == 0, err
    means = [row["mean"] for row in json.loads(out)["rows"]]
    assert all(0 <= mean <= 100 for mean in means[:2])
    assert means[2] is None
    (folder,) = (home / "runs").iterdir()
    summaries = [json.loads(path.read_text()) for path in folder.glob("trials/*/summary.json")]
    assert sorted(100 * summary["miou"] for summary in summaries) == pytest.approx(sorted(means[:2]))


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("gald-2bb",), 2, "did you mean 'gald-2b'"),
        (("tiny-1", "--seeds", "0"), 2, "0 is not in the range"),
        (("--run",), 2, "would be ignored without a table's name (--run)"),
        (("--set", "train.steps=4"), 2, "would be ignored without a table's name (--set)"),
        (("tiny-1", "--recipe", "gald/scene"), 2, "did you mean 'gald/scenes'"),
        (("tiny-1", "--recipe", RECIPE, "--set", "head.kernel_size=3"), 2, "is what the rows of tiny-1 are made of"),
        (("tiny-1", "--recipe", RECIPE, "--set", "seed=3"), 2, "ask for seeds with --seeds"),
        (("tiny-1",), 3, "no shards of cityscapes"),
        (("tiny-1", "--recipe", RECIPE, "--dataset", "camvid"), 2, "shards of scenes, not of camvid"),
    ],
)
def test_a_mistake_is_one_line(arguments, code, said, home, tiny_shards, call):
    shards = ("--shards", str(tiny_shards)) if RECIPE in arguments else ()
    found, out, err = call(*arguments, *shards)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not list((home / "runs").iterdir())


def test_without_a_server_the_folders_are_read_and_one_line_says_so(monkeypatch, tiny_shards, call, free_port):
    monkeypatch.setattr("rayseg.tracking.history.ANSWER_S", 0.1)
    asked = ("tiny-1", "--recipe", RECIPE, "--shards", str(tiny_shards))
    code, out, err = call(*asked)
    assert (code, err) == (0, "")
    assert out.startswith("MLflow is not up: only runs in the folders here are read\ntiny-1: ")
    monkeypatch.setenv("RAYSEG_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    code, out, _ = call(*asked)
    assert code == 0
    assert out.startswith("warning: the tracking server does not answer (")
    assert "--warm-start" not in out


def test_the_list_names_every_table_with_how_many_rows_run(call):
    code, out, _ = call()
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert set(lines) == {"name", *tables.TABLES}
    assert "2 of 3" in lines["tiny-1"]
    assert "11 of 11" in lines["gald-2b"]

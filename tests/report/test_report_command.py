"""`rayseg report`: where it looks, what it writes, and the one line that it says of a fault."""

import json
import os

import pytest
from click.testing import CliRunner
from made_sweep import POINTS, Made, whole

from rayseg.cli import rayseg, run
from rayseg.durable import write_atomically


def said(capsys, *arguments):
    """Run the command; give its exit code and what it said as an error."""
    with pytest.raises(SystemExit) as ended:
        run(rayseg, ["report", *map(str, arguments)])
    return ended.value.code, capsys.readouterr().err.strip()


def test_a_name_is_a_sweep_under_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSEG_HOME", str(tmp_path))
    whole(tmp_path / "runs" / "mine")
    done = CliRunner().invoke(rayseg, ["report", "mine", "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert "<h1><bdi>mine</bdi></h1>" in (tmp_path / "r.html").read_text()
    assert CliRunner().invoke(rayseg, ["report", str(tmp_path / "runs" / "mine")]).exit_code == 0
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


def test_an_existing_page_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    folder, out = whole(tmp_path / "sweep"), tmp_path / "r.html"
    out.write_text("before")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    failed = CliRunner().invoke(rayseg, ["report", str(folder), "--out", str(out)])
    assert failed.exit_code != 0
    assert out.read_text() == "before"
    monkeypatch.undo()
    assert CliRunner().invoke(rayseg, ["report", str(folder), "--out", str(out)]).exit_code == 0
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_one_trial_is_a_report(tmp_path):
    made = Made(tmp_path / "sweep")
    made.trial(POINTS[0])
    assert CliRunner().invoke(rayseg, ["report", str(made.over()), "--out", str(tmp_path / "r.html")]).exit_code == 0
    assert "Nothing was searched that differs" in (tmp_path / "r.html").read_text()


def test_a_sweep_that_is_not_over_says_so(tmp_path):
    made = Made(tmp_path / "sweep", keys=["k0000001", "k0000002", "a", "b", "c"])
    made.trial(POINTS[0])
    made.trial(POINTS[1], outcome=None)
    made.trial(POINTS[2], outcome="failed", evaluated=False, reason="out of memory")
    assert CliRunner().invoke(rayseg, ["report", str(made.folder), "--out", str(tmp_path / "r.html")]).exit_code == 0
    text = (tmp_path / "r.html").read_text()
    assert "The sweep is not over: 2 trials ended, 1 run or are paused, 3 not begun." in text
    assert "failed: out of memory" in text


def test_faults_are_one_line(tmp_path, capsys):
    whole(tmp_path / "sweep")
    Made(tmp_path / "empty").trial(POINTS[0], outcome=None, evaluated=False)
    Made(tmp_path / "torn").tell("result", {"key": "nobody"})
    for name, line in (("damaged", "no json"), ("listed", "[1]"), ("plain", '{"event": "plan"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journal.jsonl").write_text(line + "\n")
    cases = {
        (tmp_path / "nowhere",): (4, "no such sweep"),
        (tmp_path,): (4, "not a sweep: it has no journal"),
        (tmp_path / "empty",): (4, "no trial was evaluated yet, 1 started"),
        (tmp_path / "torn",): (4, "its journal cannot be read"),
        (tmp_path / "damaged",): (4, "line 1 cannot be read"),
        (tmp_path / "listed",): (4, "its journal cannot be read"),
        (tmp_path / "plain",): (4, "its journal lacks a field"),
        (tmp_path / "sweep", "--out", tmp_path / "no" / "r.html"): (2, "its folder does not exist"),
        (tmp_path / "sweep", "--out", tmp_path): (2, "a folder"),
    }
    for arguments, (code, words) in cases.items():
        found, error = said(capsys, *arguments)
        assert (found, error.splitlines()[:1]) == (code, [error]), (arguments, error)
        assert error.startswith(f"error: {words}"), error


def test_what_cannot_be_read_of_a_trial_is_noted_and_costs_nothing_else(tmp_path):
    made = Made(tmp_path / "sweep")
    for point in POINTS[:2]:
        made.trial(point)
    made.over()
    (tmp_path / "sweep" / "finals.json").write_text(json.dumps({"images": 3}))
    (tmp_path / "sweep" / "trials" / "k0000001" / "summary.json").write_text("{")
    write_atomically(tmp_path / "sweep" / "trials" / "k0000002" / "tracking" / "config.json", '{"head": 3}')
    done = CliRunner().invoke(rayseg, ["report", str(tmp_path / "sweep"), "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text()
    assert "left out: not a summary" in text
    assert "left out: finals.json cannot be read" in text

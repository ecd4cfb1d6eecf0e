"""PBT and HyperBand through Ray, with one worker a trial and with two: they must really exploit, clone and stop."""

import pytest
from sweeping import ended, events, finish, folder, told_once

from rayseg.train.review import read_summary

WORKERS = [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]


def state_of(path, key, step):
    """Read what a trial's log says of the commit that it began with."""
    lines = (path / "trials" / key / "log.txt").read_text().splitlines()
    return [line for line in lines if line.startswith(f"resuming at step {step}/")]


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_pbt_exploits_and_its_clones_go_on_from_their_donors(sweep, tmp_path, workers):
    lines = finish(sweep("--preset", "pbt", "--name", "pbt", "--set", f"train.workers={workers}"))
    path = folder(tmp_path, "pbt")
    suggested = told_once(path)
    assert len(suggested) == 12  # three generations of four
    points = {key: point for key, point, _ in suggested}
    clones = [(key, donor["key"], donor["step"]) for key, _, donor in suggested if donor]
    assert len(clones) == 8
    adopted = [(event["key"], event["donor"], event["step"]) for event in events(path, "adopt")]
    assert adopted == clones
    for key, _, step in clones:
        assert state_of(path, key, step), f"{key} did not go on from step {step}"
    perturbed = [key for key, donor, _ in clones if points[key] != points[donor]]
    assert perturbed, "nothing was perturbed"
    counted = next(line for line in lines if line.startswith("population: "))
    assert f"population: {len(perturbed)} exploited and perturbed" in counted
    for key, _, donor in suggested:
        summary = read_summary(path / "trials" / key)
        assert summary.step == (donor["step"] if donor else 0) + 2
        assert summary.status == ("finished" if summary.step == 6 else "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_hyperband_stops_and_says_by_which_bracket(sweep, tmp_path, workers):
    lines = finish(sweep("--preset", "hyperband", "--name", "hb", "--set", f"train.workers={workers}"))
    path = folder(tmp_path, "hb")
    told_once(path)
    outcomes = ended(path)
    stopped = [key for key, outcome in outcomes.items() if outcome == "stopped"]
    assert len(outcomes) == 8
    assert stopped, "HyperBand stopped nothing"
    assert any("by HyperBand's bracket" in line and "under the cut" in line for line in lines)
    for key in outcomes:
        summary = read_summary(path / "trials" / key)
        assert summary.status == ("stopped" if key in stopped else "finished")
        assert (summary.step < 6) == (key in stopped)

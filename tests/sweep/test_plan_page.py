"""The page of --plan: its figures are those of the plays, of the probe and of plain arithmetic."""

from datetime import datetime

import pytest

from rayseg.schema import parse, to_dict
from rayseg.sweep.costs import Costs, Load, Measured
from rayseg.sweep.plan import Kept, Site, Spent, page, wall_s
from rayseg.sweep.play import Forecast
from rayseg.sweep.space import choice
from rayseg.sweep.trial import Preset, trials
from rayseg.train.pace import Pace

PACE = Pace(1.0, 0.25, 0.05, 0.2, 1.0, 1536.0)
SURE = Forecast(3300.0, (3300.0, 3300.0), 960.0, (960.0, 960.0), 6000.0, 12.0, {})
HALVED = Forecast(1800.0, (1500.0, 2400.0), 500.0, (420.0, 610.0), 3300.0, 12.0, {20: 6.5, 40: 2.0})
NOON = datetime(2026, 1, 2, 12, 0)


@pytest.fixture
def costs():
    """Two measured windows of a batch of 8."""
    space = {"head.kernel_size": choice(3, 5)}
    preset = Preset(about="a test", recipe="gald/scenes", settings={}, space=space, algorithm="grid")
    first, second = trials(preset, algorithm="grid", count=1, shards="none", settings={})
    return Costs(
        [Measured(first, PACE), Measured(second, PACE._replace(step_s=0.4))], lambda c: Load(1, 1), val_images=48
    )


def rows(found, costs, site, **more):
    lines = page(found, costs, site, **{"spent": Spent(300.0, 45.0), "price": None, "now": NOON} | more)
    return {line[2:12].strip(): line[13:] for line in lines if line[2:12].strip()}


def test_a_grid_on_one_node(costs):
    said = rows(SURE, costs, Site(2, 1, 1, 0.0, nodes=1, free_mib=8192.0), price=2.0)
    assert said["trials"] == "12, each to its end"
    assert said["rungs"].startswith("none")
    assert said["steps"] == "960"
    assert said["samples/s"] == "20.0 to 32.0 a trial while it trains; 2.3 over the whole sweep"
    assert said["memory"] == "1.50 GiB a worker at most (its process), 3.0 GiB together, 8.0 GiB free here"
    assert said["compute"] == "1.67 trial hours, 1.67 core hours"
    assert said["wall"] == "1:00:00 (1.00 h), 2 trials at a time (of it 5:00 before the first)"
    assert said["cost"] == "2.00 (1 node at 2 an hour)"
    assert said["finish"] == "2026-01-02 13:00 if it starts now"


def test_halving_says_what_is_expected_and_between_what_it_lies(costs):
    said = rows(HALVED, costs, Site(2, 1, 1, 0.0, nodes=1, free_mib=8192.0))
    assert said["trials"] == "12 expected, of which 4 go on to their end"
    assert "6.5 at step 20, 2.0 at step 40" in said["rungs"]
    assert said["steps"] == "500 expected, 420 to 610 in eight sweeps of ten"
    assert said["wall"].startswith("35:00 (0.58 h), 30:00 to 45:00 in eight sweeps of ten, 2 trials at a time")
    assert said["cost"] == "add --price PER_HOUR"


def test_gpus_are_what_is_paid_for_and_nodes_where_there_are_none(costs):
    gpus = rows(SURE, costs, Site(3, 4, 2, 1.0, nodes=2, free_mib=1.0), price=2.5)
    assert gpus["cost"] == "30.00 (12 GPUs at 2.5 an hour)"
    assert gpus["compute"] == "1.67 trial hours, 6.67 GPU hours"
    assert gpus["memory"] == "1.50 GiB of the GPU at most, a worker"
    nodes = rows(SURE, costs, Site(4, 2, 2, 0.0, nodes=3, free_mib=1.0), price=2.5)
    assert nodes["cost"] == "7.50 (3 nodes at 2.5 an hour)"
    assert nodes["compute"] == "1.67 trial hours, 6.67 core hours"
    assert nodes["memory"].endswith("4.0 GiB together, 0.0 GiB free here: too little")


def test_what_is_kept_comes_back(costs):
    kept = Kept(wall_s=wall_s(SURE, Spent(300.0, 45.0)), steps=960.0, boot_s=9.0, paces={})
    assert kept.wall_s == 3600.0
    kept = kept.model_copy(update={"paces": {m.trial.key: m.pace for m in costs.measured}})
    again = parse(Kept, to_dict(kept), "a file")
    assert again == kept
    assert again.costs_of([m.trial for m in costs.measured]) == costs.measured

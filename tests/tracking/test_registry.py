"""The registry, against a real server: one version a winner, the alias where it belongs, nothing lost."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rayseg.tracking import registry
from rayseg.tracking.mlflow_tracker import RunIdentity, open_tracker, replay, run_id
from rayseg.tracking.registry import Champion

NAMES = (f"gald-scenes{number}" for number in itertools.count())
TAGS = {"miou": "0.4120", "lead": "0.0310 [0.0120, 0.0500] over 9b1d0f3c", "sweep": "a-sweep", "trial": "3fa29c01"}


@pytest.fixture
def name() -> str:
    """A model of this test's own: the server lasts for the session."""
    return next(NAMES)


def sweep_of(root: Path, name: str, sweep: str, uri: str | None) -> Path:
    """Make a sweep's folder with the run of one trial that has weights; with `uri` the server has it."""
    folder = root / sweep
    run_dir = folder / "trials" / "3fa29c01"
    identity = RunIdentity(experiment=name, run_key=f"{sweep}/3fa29c01", run_name="001-3fa29c01")
    tracker = open_tracker(run_dir, identity, None)
    weights = run_dir / "model.safetensors"
    save_file({"w": torch.arange(3.0)}, weights)
    tracker.metrics({"val/miou": 0.412}, 80)
    tracker.artifact(weights, "best")
    tracker.close("FINISHED")
    if uri is not None:
        assert replay(run_dir, uri).complete
    return folder


def winner(name: str, decided: float = 0.0) -> Champion:
    return Champion(name=name, run="trials/3fa29c01", tags=TAGS, decided=decided)


def versions(client: Any, name: str) -> list[Any]:
    return sorted(client.search_model_versions(f"name = '{name}'"), key=lambda v: int(v.version))


def test_the_winner_is_the_champion_and_its_weights_come_down(
    server: Any, client: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep_of(tmp_path, name, "s", server.uri)
    registry.propose(folder, winner(name))
    line = registry.register(folder, server.uri)
    assert line == f"champion: {name} version 1 (trial 3fa29c01), models:/{name}@champion"
    champion = client.get_model_version_by_alias(name, "champion")
    assert champion.run_id == run_id(folder / "trials" / "3fa29c01")
    assert {tag: champion.tags[tag] for tag in TAGS} == TAGS
    assert champion.tags["rayseg.run_key"] == "s/3fa29c01"

    from mlflow.artifacts import download_artifacts

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    got = Path(download_artifacts(f"models:/{name}@champion", dst_path=str(tmp_path / "down")))
    assert [path.name for path in got.iterdir() if path.is_file()] == ["model.safetensors"]
    assert torch.equal(load_file(got / "model.safetensors")["w"], torch.arange(3.0))


def test_doing_it_again_changes_nothing(server: Any, client: Any, name: str, tmp_path: Path) -> None:
    folder = sweep_of(tmp_path, name, "s", server.uri)
    registry.propose(folder, winner(name))
    first = registry.register(folder, server.uri)
    registry.propose(folder, winner(name))
    assert registry.register(folder, server.uri) == first
    assert [v.version for v in versions(client, name)] == ["1"]
    assert registry.waiting(tmp_path) == []


def test_a_later_winner_takes_its_place_and_an_earlier_one_that_comes_late_does_not(
    server: Any, client: Any, name: str, tmp_path: Path
) -> None:
    early, late = (sweep_of(tmp_path, name, sweep, server.uri) for sweep in ("early", "late"))
    registry.propose(early, winner(name, decided=1000.0))
    registry.propose(late, winner(name, decided=2000.0))
    registry.register(late, server.uri)
    line = registry.register(early, server.uri)
    assert line == f"registered {name} version 2 (trial 3fa29c01); version 1 was decided later and stays the champion"
    assert client.get_model_version_by_alias(name, "champion").version == "1"

    third = sweep_of(tmp_path, name, "third", server.uri)
    registry.propose(third, winner(name, decided=3000.0))
    assert registry.register(third, server.uri).endswith("in place of version 1")
    assert client.get_model_version_by_alias(name, "champion").version == "3"
    keys = [v.tags["rayseg.run_key"] for v in versions(client, name)]
    assert keys == ["late/3fa29c01", "early/3fa29c01", "third/3fa29c01"]


def test_a_winner_waits_for_a_server_that_is_away(
    server: Any, proxy: Any, client: Any, name: str, tmp_path: Path
) -> None:
    folder = sweep_of(tmp_path, name, "s", server.uri)
    registry.propose(folder, winner(name))
    line = registry.register(folder, proxy.uri)  # nobody listens yet
    assert line.startswith(f"warning: the champion of {name} is not registered yet (")
    assert registry.waiting(tmp_path) == [folder]
    proxy.start()
    assert registry.register(folder, proxy.uri).startswith("champion: ")
    assert registry.waiting(tmp_path) == []


def test_a_run_that_the_server_has_not_all_of_waits_too(server: Any, client: Any, name: str, tmp_path: Path) -> None:
    folder = sweep_of(tmp_path, name, "s", None)
    registry.propose(folder, winner(name))
    assert "MLflow has not all of its run" in registry.register(folder, server.uri)
    assert versions(client, name) == []
    assert replay(folder / "trials" / "3fa29c01", server.uri).complete
    assert registry.register(folder, server.uri).startswith("champion: ")


@pytest.mark.parametrize("lost", ["model-versions/create", "registered-models/create", "registered-models/alias"])
def test_a_lost_answer_makes_no_second_version(
    proxy: Any, server: Any, client: Any, name: str, tmp_path: Path, lost: str
) -> None:
    folder = sweep_of(tmp_path, name, "s", server.uri)
    registry.propose(folder, winner(name))
    left = [1]

    def fate(path: str) -> str:
        return "lose" if lost in path and left and left.pop() else "pass"

    proxy.fate = fate
    proxy.start()
    assert registry.register(folder, proxy.uri).startswith("champion: ")
    assert not left, f"{lost} was never asked for"
    assert [v.version for v in versions(client, name)] == ["1"]
    assert client.get_model_version_by_alias(name, "champion").version == "1"


def test_a_tie_withdraws_what_is_not_registered_and_leaves_the_rest(server: Any, name: str, tmp_path: Path) -> None:
    folder = sweep_of(tmp_path, name, "s", server.uri)
    registry.withdraw(folder)  # nothing was there
    registry.propose(folder, winner(name))
    registry.withdraw(folder)
    assert registry.read(folder) is None
    registry.propose(folder, winner(name))
    registry.register(folder, server.uri)
    registry.withdraw(folder)
    assert registry.read(folder).version == "1"


def test_the_same_winner_keeps_its_time_and_another_one_has_its_own(name: str, tmp_path: Path) -> None:
    registry.propose(tmp_path, winner(name, decided=5.0))
    registry.propose(tmp_path, winner(name))
    assert registry.read(tmp_path).decided == 5.0
    registry.propose(tmp_path, winner(name).model_copy(update={"tags": TAGS | {"miou": "0.5"}}))
    assert registry.read(tmp_path).decided > 1e9


def test_a_damaged_note_is_no_winner(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "champion.json").write_text('{"name": ')
    assert registry.read(folder) is None
    assert registry.waiting(tmp_path) == []

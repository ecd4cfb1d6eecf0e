"""A sweep's winner in MLflow's registry: a version that points at its run's weights, under the alias `champion`.

What is to be registered stands in `champion.json` of the sweep's folder first. So a server that is away costs nothing:
the sweep's resume or `rayseg up` does it later, and doing it again changes nothing. The version's source is the run's
own `best` folder (safetensors and JSON): nothing is uploaded, and nothing is pickled.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rayseg.durable import write_atomically
from rayseg.errors import RaysegError
from rayseg.schema import Value, parse, to_dict
from rayseg.tracking.identity import read_identity
from rayseg.tracking.mlflow_run import RUN_KEY, client
from rayseg.tracking.redact import redact
from rayseg.tracking.replay import has_news, read_mark
from rayseg.tracking.server import check_uri

ALIAS, PLACE, DECIDED = "champion", "champion.json", "rayseg.decided"
BEST = "best"
"""The folder of a run's artifacts that has its best weights."""
_TRIES, _PAUSE_S = 3, 0.2


class Champion(Value):
    """The winner of a sweep; `run` is its run's folder below the sweep's, `decided` the time in seconds since 1970.

    `version` is that of the registered model `name`, None before it is registered.
    """

    name: str
    run: str
    tags: dict[str, str]
    decided: float = 0.0
    version: str | None = None


def propose(folder: Path, champion: Champion) -> None:
    """Write down what is to be registered; the same winner once more stays as it was."""
    there = read(folder)
    if there is None or (there.name, there.run, there.tags) != (champion.name, champion.run, champion.tags):
        _write(folder, champion.model_copy(update={"decided": champion.decided or time.time()}))


def withdraw(folder: Path) -> None:
    """Forget a winner that is none any more, if it is not registered yet."""
    if (there := read(folder)) is not None and there.version is None:
        (folder / PLACE).unlink()


def read(folder: Path) -> Champion | None:
    """Read what is to be registered, or was; None where nothing that can be read is."""
    try:
        return parse(Champion, json.loads((folder / PLACE).read_text()), folder / PLACE)
    except (OSError, ValueError, RaysegError):
        return None


def waiting(root: Path) -> list[Path]:
    """Find the sweeps under `root` whose winner is not registered yet."""
    found = [path.parent for path in sorted(root.glob(f"*/{PLACE}"))]
    return [folder for folder in found if (there := read(folder)) is not None and there.version is None]


def register(folder: Path, uri: str) -> str:
    """Register a sweep's winner, and say in a line what became of it; a server that is away is no error.

    A champion that was decided later stays the champion.
    """
    champion = read(folder)
    assert champion is not None, "propose comes first"
    later = f"warning: the champion of {champion.name} is not registered yet"
    if (run := _whole(folder / champion.run)) is None:
        return f"{later} (MLflow has not all of its run): `rayseg up` does it"
    for left in reversed(range(_TRIES)):
        try:
            return _registered(folder, champion, client(check_uri(uri)), run)
        except Exception as error:  # a server that is away, or answers what it likes, ends no sweep
            said = redact(" ".join(str(error).split()))[:150]
        if left:
            time.sleep(_PAUSE_S)
    return f"{later} ({said}): `rayseg up` does it"


def _whole(run_dir: Path) -> str | None:
    """Give the id of a run that the server has all of."""
    mark = read_mark(run_dir)
    return None if has_news(run_dir, mark) else mark.run_id


def _registered(folder: Path, champion: Champion, server: Any, run: str) -> str:
    key = read_identity(folder / champion.run).run_key
    aliases = _model(server, champion.name).aliases
    before = server.get_model_version(champion.name, aliases[ALIAS]) if ALIAS in aliases else None
    version = _version(server, champion, run, key)
    called = f"{champion.name} version {version.version} (trial {Path(champion.run).name})"
    said = f"champion: {called}, models:/{champion.name}@{ALIAS}"
    if before is None:
        server.set_registered_model_alias(champion.name, ALIAS, version.version)
    elif float(before.tags.get(DECIDED, 0)) > champion.decided:
        said = f"registered {called}; version {before.version} was decided later and stays the champion"
    elif before.version != version.version:
        server.set_registered_model_alias(champion.name, ALIAS, version.version)
        said += f", in place of version {before.version}"
    _write(folder, champion.model_copy(update={"version": str(version.version)}))
    return said


def _model(server: Any, name: str) -> Any:
    """Give the registered model of that name, made where there is none."""
    if not (found := server.search_registered_models(f"name = '{name}'")):
        return server.create_registered_model(name)
    return found[0]


def _version(server: Any, champion: Champion, run: str, key: str) -> Any:
    """Find the version of this run and decision, or make it: an answer that was lost makes no second one."""
    decided = repr(champion.decided)
    for version in server.search_model_versions(f"name = '{champion.name}' and run_id = '{run}'"):
        if version.tags.get(DECIDED) == decided:
            return version
    source = f"{server.get_run(run).info.artifact_uri}/{BEST}"
    tags = {**champion.tags, RUN_KEY: key, DECIDED: decided}
    return server.create_model_version(champion.name, source, run_id=run, tags=tags, await_creation_for=None)


def _write(folder: Path, champion: Champion) -> None:
    write_atomically(folder / PLACE, json.dumps(to_dict(champion), indent=1))

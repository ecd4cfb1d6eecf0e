"""Whose spool it is: `tracking/run.json`, from which alone a run can be brought to a server later."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from rayseg.errors import CheckpointError, ClusterError
from rayseg.schema import Value, parse, to_dict
from rayseg.tracking.redact import redact

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$")]


class RunIdentity(Value):
    """What a run is called at the server. `run_key` never changes and is unique within the experiment."""

    experiment: Annotated[str, Field(min_length=1, max_length=200)]
    run_key: Key
    run_name: str
    parent_key: Key | None = None
    tags: dict[str, str] = {}


def write_identity(run_dir: Path, identity: RunIdentity) -> None:
    """Write down whose spool this is, without secrets; the last name and tags stand.

    Raises:
        CheckpointError: the directory is another run's.
        ClusterError: the disk is full or read-only.
    """
    path = run_dir / "tracking" / "run.json"
    there = read_identity(run_dir) if path.exists() else identity
    if (there.experiment, there.run_key) != (identity.experiment, identity.run_key):
        raise CheckpointError(
            f"the run there is {there.run_key} of {there.experiment}, this one {identity.run_key} of "
            f"{identity.experiment}",
            run_dir,
            "choose another run directory",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(redact(to_dict(identity)), indent=1))
    except OSError as error:
        raise ClusterError(
            f"cannot write run.json: {error}", path.parent, "make room, then run the same again"
        ) from None


def identity_for(run_dir: Path, name: str, experiment: str, tags: Mapping[str, str]) -> RunIdentity:
    """Give the identity of a run that stands alone (or of a sweep): the one it has, else one with a key of its own.

    Two directories of one name, on two machines that share a server, are two runs.
    """
    if (run_dir / "tracking" / "run.json").exists():
        return read_identity(run_dir)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-") or "run"
    key = f"{plain[:100]}-{secrets.token_hex(3)}"
    return RunIdentity(experiment=experiment, run_key=key, run_name=name, tags=dict(tags))


def read_identity(run_dir: Path) -> RunIdentity:
    """Read whose spool it is.

    Raises:
        CheckpointError: no tracked run is there.
    """
    path = run_dir / "tracking" / "run.json"
    try:
        return parse(RunIdentity, json.loads(path.read_text()), path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no tracked run: {error}", path, "name a run directory that rayseg wrote") from None


def replace_text(path: Path, text: str) -> None:
    """Replace a small file in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)

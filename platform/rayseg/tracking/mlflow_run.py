"""A run at an MLflow server, with the runs of its attempts under it: where the replay of a spool goes.

A run is found by its tag `rayseg.run_key`, or created; whatever is said here may be said twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rayseg.errors import ClusterError
from rayseg.tracking.identity import read_identity
from rayseg.tracking.names import valid_name
from rayseg.tracking.replay import BATCH_POINTS, Mark, Point, RefusedError
from rayseg.tracking.server import prepare_client
from rayseg.tracking.spool import Of, read_lines

RUN_KEY = "rayseg.run_key"
PARENT = "mlflow.parentRunId"
NOTE, STOPPED = "mlflow.note.content", "stopped"
"""MLflow's page cuts a tag short, and shows a run's note whole: so why a run ended stands in both."""
_PARAMS_PER_CALL = 100
_PARAM_CHARS, _TAG_CHARS, _DIGEST_CHARS = 500, 5000, 36  # what the server stores is cut; config.json has the config
_TRIES, _PAUSE_S, _SLOW_S = 3, 0.1, 2.0
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}


def client(uri: str) -> Any:
    """Make MLflow's client for the server at `uri`; the import takes seconds."""
    prepare_client(uri)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


class MlflowRun:
    """One run at a server and its attempts: a `Destination` of the spool."""

    def __init__(self, run_dir: Path, uri: str) -> None:
        self._identity, self._uri = read_identity(run_dir), uri
        self._run_dir, self._client = run_dir, client(uri)
        self._experiment_id: str | None = None
        self._run: Any = None
        self._params: Mapping[str, str] | None = None
        self._attempts: dict[int, str] = {}

    def attach(self, mark: Mark) -> Mark:
        """Find or create the run, and put it under its parent as soon as that is there."""
        parent_id = None
        if self._run is None or mark.run_id not in (None, self._run.info.run_id):
            self._params, self._attempts = None, {}
            self._run = self._known(mark.run_id) or self._find(self._identity.run_key)
            if self._run is None:
                parent_id = self._parent_id()
                self._run = self._create(parent_id)
        run_id = self._run.info.run_id
        if mark.run_id != run_id:
            mark = Mark(experiment_id=self._run.info.experiment_id, run_id=run_id, parent_id=parent_id)
        if mark.parent_id is None and (parent_id := self._parent_id()):
            self._call(self._client.set_tag, run_id, PARENT, parent_id)
            mark = mark.model_copy(update={"parent_id": parent_id})
        return mark

    def config(self, values: dict[str, Any]) -> None:
        """Store dotted parameters. A server never changes one: what a resumed run has otherwise is in `param_drift`."""
        there = self._params if self._params is not None else self._call(self._client.get_run, self._run_id).data.params
        wanted = _params(values)
        self._store_params(self._run_id, {name: value for name, value in wanted.items() if name not in there})
        self._params = {**wanted, **there}
        drift = [f"{n}: {there[n]} -> {value}" for n, value in wanted.items() if there.get(n, value) != value]
        if drift:
            self.values([], {"param_drift": "; ".join(drift)}, None)

    def attempt(self, number: int, facts: dict[str, str], time_ms: int) -> None:
        """Find or create an attempt's run, under this one, and store what is fixed about it as parameters."""
        run_id = self._attempts[number] = self._attempt(number, time_ms)
        self._store_params(run_id, _params(facts))

    def values(self, points: list[Point], tags: dict[str, str], of: Of) -> None:
        """Store points and tags, at most BATCH_POINTS a call."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(p.name, p.value, p.time_ms, p.step) for p in points]
        told = [RunTag(name, _cut(value, _TAG_CHARS)) for name, value in self._with_note(tags, of).items()]
        for start in range(0, len(metrics) or 1, BATCH_POINTS):
            some = metrics[start : start + BATCH_POINTS]
            self._call(self._client.log_batch, self._id_of(of), metrics=some, tags=() if start else told)

    def _with_note(self, tags: dict[str, str], of: Of) -> dict[str, str]:
        """Add the note that says why it ended, unless a person has written one to the run."""
        if STOPPED not in tags:
            return tags
        if of is not None:
            return tags | {NOTE: tags[STOPPED]}
        there = self._call(self._client.get_run, self._run_id).data.tags
        ours = there.get(NOTE) in (None, "", there.get(STOPPED), tags[STOPPED])
        return tags | {NOTE: tags[STOPPED]} if ours else tags

    def artifact(self, file: Path, folder: str) -> None:
        """Upload a file through the server."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        # not the client's own: it caches one per run id, whatever server that was at
        store = get_artifact_repository(self._run.info.artifact_uri, tracking_uri=self._uri)
        self._call(store.log_artifact, str(file), folder or None)

    def inputs(self, datasets: list[dict[str, Any]]) -> None:
        """Store what the run reads; a server keeps each (name, digest) once."""
        self._call(self._client.log_inputs, self._run_id, [_input(dataset) for dataset in datasets])

    def status(self, status: str, time_ms: int, of: Of) -> None:
        """Set the status; at a run's end also remove what a lost answer may have left beside it."""
        if status == "RUNNING":
            self._call(self._client.update_run, self._id_of(of), status=status)
            return
        self._call(self._client.set_terminated, self._id_of(of), status, time_ms)
        if of is None:
            self._find(self._identity.run_key)

    @property
    def _run_id(self) -> str:
        assert self._run is not None, "attach comes first"
        return str(self._run.info.run_id)

    def _id_of(self, of: Of) -> str:
        if of is None:
            return self._run_id
        if of not in self._attempts:  # another process brought its first line
            self._attempts[of] = self._attempt(of, None)
        return self._attempts[of]

    def _attempt(self, number: int, time_ms: int | None) -> str:
        """Find or create an attempt's run; one that is under a run that was deleted since comes under this one."""
        key = f"{self._identity.run_key}/attempt-{number}"
        run = self._find(key)
        if run is None:
            tags = {PARENT: self._run_id, "rayseg.kind": "attempt"}
            run = self._created(key, f"attempt {number}", tags, time_ms)
        elif run.data.tags.get(PARENT) != self._run_id:
            self._call(self._client.set_tag, run.info.run_id, PARENT, self._run_id)
        return str(run.info.run_id)

    def _experiment(self) -> str:
        if self._experiment_id is None:
            name = self._identity.experiment
            found = self._call(self._client.get_experiment_by_name, name)
            if found is not None and found.lifecycle_stage != "active":
                fix = "restore it in MLflow, or give the experiment another name"
                raise ClusterError(f"experiment {name} is deleted", self._uri, fix)
            self._experiment_id = found.experiment_id if found else self._call(self._client.create_experiment, name)
        return self._experiment_id

    def _parent_id(self) -> str | None:
        parent = self._find(self._identity.parent_key) if self._identity.parent_key else None
        return parent.info.run_id if parent is not None else None

    def _known(self, run_id: str | None) -> Any:
        """Give the run of that id if it is this one and not deleted: the server may be another, or emptied."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in _REFUSALS:
                raise
            return None
        mine = run.data.tags.get(RUN_KEY) == self._identity.run_key and run.info.lifecycle_stage == "active"
        return run if mine else None

    def _find(self, key: str) -> Any:
        """Find the run of that key; the empty twin that a create with a lost answer left is removed."""
        query = f"tags.`{RUN_KEY}` = '{key}'"
        runs = self._call(self._client.search_runs, [self._experiment()], query, max_results=100)
        own = self._run.info.run_id if self._run is not None else None
        runs = sorted(runs, key=lambda run: (run.info.run_id != own, not run.data.params, run.info.run_id))
        for twin in runs[1:] if key != self._identity.parent_key else ():
            if not twin.data.metrics and not twin.data.params:
                self._call(self._client.delete_run, twin.info.run_id)
        return runs[0] if runs else None

    def _create(self, parent_id: str | None) -> Any:
        who = self._identity
        under = {PARENT: parent_id} if parent_id else {}
        began_ms = next((line.content["t"] for line in read_lines(self._run_dir) if line.content), None)
        run = self._created(who.run_key, who.run_name, who.tags | under, began_ms)
        self._params = {} if not run.data.params else None
        return run

    def _created(self, key: str, name: str, tags: Mapping[str, str], began_ms: int | None) -> Any:
        plain = {valid_name(tag): _cut(value, _TAG_CHARS) for tag, value in tags.items()} | {RUN_KEY: key}
        create = partial(self._client.create_run, self._experiment(), began_ms, run_name=name)
        for _ in range(_TRIES):
            try:
                return create(tags=plain)
            except Exception as error:  # the answer may be lost, and the run be there
                lost = error
                if found := self._find(key):
                    return found
        raise lost

    def _store_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        listed = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(listed), _PARAMS_PER_CALL):
            self._call(self._client.log_batch, run_id, params=listed[start : start + _PARAMS_PER_CALL])

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the server, again after a quick failure: everything but the creation of a run may be said twice."""
        for left in reversed(range(_TRIES)):
            began = time.monotonic()
            try:
                return function(*args, **kwargs)
            except Exception as error:
                self._settle(error)
                if not left or time.monotonic() - began > _SLOW_S:
                    raise
                time.sleep(_PAUSE_S)
        raise AssertionError("a loop of _TRIES returns or raises")

    def _settle(self, error: Exception) -> None:
        """Raise what no second try can change; a run that is gone is forgotten, so that it is made anew."""
        if getattr(error, "error_code", None) not in _REFUSALS:
            return
        if self._run is not None and self._known(self._run.info.run_id) is None:
            self._run = None
            raise error
        raise RefusedError(str(error)) from None


def _input(dataset: Mapping[str, Any]) -> Any:
    """Say it as MLflow does: the digest is cut to what its table takes, the rest is JSON."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": dataset["source"]})
    profile = json.dumps({"num_rows": dataset["samples"], "num_classes": dataset["classes"]})
    kind = "url" if "://" in dataset["source"] else "local"
    told = Dataset(dataset["name"], dataset["digest"][:_DIGEST_CHARS], kind, source, None, profile)
    return DatasetInput(told, [InputTag("mlflow.data.context", dataset["context"])])


def _params(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested plain types to dotted names; text stays as it is, everything else is JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _params(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[valid_name(name)] = _cut(text, _PARAM_CHARS)
    return flat


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."

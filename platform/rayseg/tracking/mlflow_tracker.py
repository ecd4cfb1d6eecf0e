"""MLflow: the only importer of it, and only when a thread or a command first needs it (the import takes seconds).

Whoever creates a sweep's parent run does so before its children: a child that finds no parent yet is tracked all the
same and joins it as soon as it is there. Only the server opens the database; everything here goes over HTTP.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rayseg.errors import ClusterError
from rayseg.tracking.identity import RunIdentity, identity_for, read_identity, write_identity
from rayseg.tracking.replay import BATCH_POINTS, Mark, Point, RefusedError, ReplayReport, bring, read_mark, unsynced
from rayseg.tracking.replayer import Replayer
from rayseg.tracking.server import check_uri, healthy, prepare_client, server_command
from rayseg.tracking.spool import SpoolTracker, read_lines, valid_name

__all__ = [
    "RunIdentity",
    "healthy",
    "identity_for",
    "open_tracker",
    "points_of",
    "replay",
    "review_url",
    "run_id",
    "server_command",
    "unsynced",
]

RUN_KEY = "rayseg.run_key"
PARENT = "mlflow.parentRunId"
_PARAMS_PER_CALL = 100
_PARAM_CHARS, _TAG_CHARS = 500, 5000  # what the server stores is cut; the whole config is in config.json
_TRIES, _PAUSE_S, _SLOW_S = 3, 0.1, 2.0
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}


def open_tracker(run_dir: Path, identity: RunIdentity, uri: str | None, *, close_s: float = 10.0) -> SpoolTracker:
    """Open a run's spool, and bring it to the server at `uri` beside training; None keeps it on disk alone.

    `close` waits at most `close_s` for the server. A tracker that is dropped without `close` ends its thread.

    Raises:
        ClusterError: `uri` is not a plain http(s) address.
        CheckpointError: the run directory is another run's.
    """
    uri = check_uri(uri) if uri is not None else None
    write_identity(run_dir, identity)
    if uri is None:
        return SpoolTracker(run_dir)
    replayer = Replayer(run_dir, partial(MlflowRun, run_dir, uri))
    tracker = SpoolTracker(run_dir, on_close=partial(replayer.close, close_s))
    weakref.finalize(tracker, replayer.finish).atexit = False
    replayer.start()
    return tracker


def replay(run_dir: Path, uri: str, *, timeout_s: float = 60.0) -> ReplayReport:
    """Bring everything of one run directory to the server now; what is there already stays single.

    A server that is away is no error but `report.error`: nothing is lost, and the next replay brings the rest.

    Raises:
        ClusterError: `uri` is not a plain http(s) address.
    """
    uri = check_uri(uri)
    if next(read_lines(run_dir), None) is None:
        return ReplayReport()
    return bring(run_dir, MlflowRun(run_dir, uri), timeout_s=timeout_s)


def run_id(run_dir: Path) -> str | None:
    """Give the run's id at the server that it was last brought to."""
    return read_mark(run_dir).run_id


def points_of(run_dir: Path, uri: str) -> list[tuple[str, int]]:
    """List name and step of every point that the server has of a run, once for each time that it has it."""
    client, number = _client(check_uri(uri)), run_id(run_dir)
    names = client.get_run(number).data.metrics if number else ()
    return [(name, point.step) for name in names for point in client.get_metric_history(number, name)]


def review_url(uri: str, experiment: str, *, charts: bool = False, runs: Sequence[str] = ()) -> str:
    """Link to an experiment's table (or charts), to one run, or to several side by side, in Model-training mode.

    `experiment` is its name, looked up at the server (without an answer the link opens the list of experiments);
    `runs` are ids as `run_id` gives them.
    """
    uri = check_uri(uri)
    try:
        found = _client(uri).get_experiment_by_name(experiment)
    except Exception:  # a link is no reason to fail
        found = None
    if found is None:
        return f"{uri}/#/experiments?workflowType=machine_learning"
    number = found.experiment_id
    if len(runs) == 1:
        return f"{uri}/#/experiments/{number}/runs/{runs[0]}?workflowType=machine_learning"
    if runs:
        listed = [urllib.parse.quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(runs), [number])]
        return f"{uri}/#/compare-runs?runs={listed[0]}&experiments={listed[1]}&workflowType=machine_learning"
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"{uri}/#/experiments/{number}/runs?workflowType=machine_learning{mode}"


def _client(uri: str) -> Any:
    prepare_client(uri)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


class MlflowRun:
    """One run at a server, found by the tag `rayseg.run_key` or created: a `Destination` of the spool."""

    def __init__(self, run_dir: Path, uri: str) -> None:
        self._identity, self._uri = read_identity(run_dir), uri
        self._run_dir, self._client = run_dir, _client(uri)
        self._experiment_id: str | None = None
        self._run: Any = None

    def attach(self, mark: Mark) -> Mark:
        """Find or create the run, and put it under its parent as soon as that is there."""
        if self._run is None or mark.run_id not in (None, self._run.info.run_id):
            self._run = self._known(mark.run_id) or self._find(self._identity.run_key) or self._create()
        run_id = self._run.info.run_id
        if mark.run_id != run_id:
            mark = Mark(experiment_id=self._run.info.experiment_id, run_id=run_id)
        if self._identity.parent_key and mark.parent_id is None and (parent := self._find(self._identity.parent_key)):
            self._call(self._client.set_tag, run_id, PARENT, parent.info.run_id)
            mark = mark.model_copy(update={"parent_id": parent.info.run_id})
        return mark

    def config(self, values: dict[str, Any]) -> None:
        """Store dotted parameters. A server never changes one: what a resumed run has otherwise is in `param_drift`."""
        from mlflow.entities import Param

        there = self._call(self._client.get_run, self._run_id).data.params
        wanted = _params(values)
        new = [Param(name, value) for name, value in wanted.items() if name not in there]
        for start in range(0, len(new), _PARAMS_PER_CALL):
            self._call(self._client.log_batch, self._run_id, params=new[start : start + _PARAMS_PER_CALL])
        drift = [f"{n}: {there[n]} -> {value}" for n, value in wanted.items() if there.get(n, value) != value]
        if drift:
            self.tag("param_drift", "; ".join(drift))

    def points(self, points: list[Point]) -> None:
        """Store points, at most BATCH_POINTS a call."""
        from mlflow.entities import Metric

        metrics = [Metric(p.name, p.value, p.time_ms, p.step) for p in points]
        for start in range(0, len(metrics), BATCH_POINTS):
            self._call(self._client.log_batch, self._run_id, metrics=metrics[start : start + BATCH_POINTS])

    def artifact(self, file: Path, folder: str) -> None:
        """Upload a file through the server."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        # not the client's own: it caches one per run id, whatever server that was at
        store = get_artifact_repository(self._run.info.artifact_uri, tracking_uri=self._uri)
        self._call(store.log_artifact, str(file), folder or None)

    def tag(self, name: str, value: str) -> None:
        """Set a tag."""
        self._call(self._client.set_tag, self._run_id, name, _cut(value, _TAG_CHARS))

    def status(self, status: str, time_ms: int) -> None:
        """Set the status; at the end also remove what a lost answer may have left beside the run."""
        if status == "RUNNING":
            self._call(self._client.update_run, self._run_id, status=status)
            return
        self._call(self._client.set_terminated, self._run_id, status, time_ms)
        self._find(self._identity.run_key)

    @property
    def _run_id(self) -> str:
        assert self._run is not None, "attach comes first"
        return str(self._run.info.run_id)

    def _experiment(self) -> str:
        if self._experiment_id is None:
            name = self._identity.experiment
            found = self._call(self._client.get_experiment_by_name, name)
            if found is not None and found.lifecycle_stage != "active":
                fix = "restore it in MLflow, or give the experiment another name"
                raise ClusterError(f"experiment {name} is deleted", self._uri, fix)
            self._experiment_id = found.experiment_id if found else self._call(self._client.create_experiment, name)
        return self._experiment_id

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
        for twin in runs[1:] if key == self._identity.run_key else ():
            if not twin.data.metrics and not twin.data.params:
                self._call(self._client.delete_run, twin.info.run_id)
        return runs[0] if runs else None

    def _create(self) -> Any:
        who = self._identity
        tags = {valid_name(name): _cut(value, _TAG_CHARS) for name, value in who.tags.items()}
        began_ms = next((line.content["t"] for line in read_lines(self._run_dir) if line.content), None)
        create = partial(self._client.create_run, self._experiment(), began_ms, run_name=who.run_name)
        for _ in range(_TRIES):
            try:
                return create(tags=tags | {RUN_KEY: who.run_key})
            except Exception as error:  # the answer may be lost, and the run be there
                lost = error
                if found := self._find(who.run_key):
                    return found
        raise lost

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

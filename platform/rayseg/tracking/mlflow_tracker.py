"""What others ask of MLflow: a run's tracker, a replay, links. The import of MLflow takes seconds, and comes late.

Whoever creates a sweep's parent run does so before its children: a child that finds no parent yet is tracked all the
same and joins it as soon as it is there. Only the server opens the database; everything here goes over HTTP.
"""

from __future__ import annotations

import json
import urllib.parse
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rayseg.tracking.identity import RunIdentity, identity_for, write_identity
from rayseg.tracking.mlflow_run import MlflowRun, client
from rayseg.tracking.replay import ReplayReport, bring, read_mark, unsynced
from rayseg.tracking.replayer import Replayer
from rayseg.tracking.server import check_uri, healthy, server_command
from rayseg.tracking.spool import SpoolTracker, read_lines

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
    server, number = client(check_uri(uri)), run_id(run_dir)
    names = server.get_run(number).data.metrics if number else ()
    return [(name, point.step) for name in names for point in server.get_metric_history(number, name)]


def review_url(uri: str, experiment: str, *, charts: bool = False, runs: Sequence[str] = ()) -> str:
    """Link to an experiment's table (or charts), to one run, or to several side by side, in Model-training mode.

    `experiment` is its name, looked up at the server (without an answer the link opens the list of experiments);
    `runs` are ids as `run_id` gives them.
    """
    uri = check_uri(uri)
    try:
        found = client(uri).get_experiment_by_name(experiment)
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

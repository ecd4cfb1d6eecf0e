"""What earlier runs came to, read from an MLflow server: the only reader; everything else here writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rayseg.errors import ClusterError
from rayseg.tracking import mlflow_run
from rayseg.tracking.server import check_uri, healthy

_PAGE = 1000
ANSWER_S = 5.0


class Earlier(NamedTuple):
    """A run that ended in order: its tags, a curve by step for each metric asked for, and the last value of each."""

    run_id: str
    name: str
    experiment: str
    tags: Mapping[str, str]
    curves: Mapping[str, Mapping[int, float]]
    metrics: Mapping[str, float]


def earlier(uri: str, tags: Mapping[str, str], curves: tuple[str, ...]) -> list[Earlier]:
    """Find the finished runs of any experiment that have all these tags, the oldest first.

    Raises:
        ClusterError: `uri` is no server, or it does not answer.
    """
    uri = check_uri(uri)
    if not healthy(uri, ANSWER_S):
        raise ClusterError("the tracking server does not answer", uri, "see `rayseg status`, or drop --warm-start")
    client = mlflow_run.client(uri)
    try:
        names = {each.experiment_id: each.name for each in _all(client.search_experiments)}
        query = " and ".join([*(f"tags.`{name}` = '{value}'" for name, value in tags.items()), "status = 'FINISHED'"])
        found = _all(client.search_runs, list(names), query, order_by=["attributes.start_time ASC"]) if names else []
        return [_read(client, run, names[run.info.experiment_id], curves) for run in found]
    except Exception as error:
        what = f"cannot read earlier runs: {' '.join(str(error).split())[:150]}"
        raise ClusterError(what, uri, "see `rayseg status`, or drop --warm-start") from None


def _all(ask: Any, *args: Any, **options: Any) -> list[Any]:
    """Read all pages of an answer."""
    found: list[Any] = []
    token = None
    while True:
        page = ask(*args, max_results=_PAGE, page_token=token, **options)
        found += page
        if not (token := page.token):
            return found


def _read(client: Any, run: Any, experiment: str, curves: tuple[str, ...]) -> Earlier:
    there = [name for name in curves if name in run.data.metrics]
    histories = {name: {p.step: p.value for p in client.get_metric_history(run.info.run_id, name)} for name in there}
    return Earlier(
        run.info.run_id, run.info.run_name, experiment, dict(run.data.tags), histories, dict(run.data.metrics)
    )

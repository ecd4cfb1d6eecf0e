"""Sharding on Ray: a task a shard, on any node that sees the raw files and the folder the shards go to.

The bytes are those that threads write. A task whose node is lost is run again; nothing of it is half there, for a
shard gets its name when it is finished.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from rayseg.cluster.connect import cluster_resources, ray_session
from rayseg.data.shards import Crew, write_alone
from rayseg.data.staging import Task, Written
from rayseg.errors import ClusterError, DataError, RaysegError

_RETRIES = 3


def crew(at_once: int | None = None) -> Crew:
    """Make a crew of Ray tasks, `at_once` at a time; as many as the cluster has CPUs when absent.

    It connects when there is a shard to write, so what is wrong with the data is said before; it may raise
    ClusterError.
    """

    def write(tasks: Sequence[Task], done: Callable[[int], None]) -> Generator[Written, None, None]:
        if not tasks:
            return
        with ray_session(num_cpus=at_once):
            yield from _written(tasks, done, at_once or int(cluster_resources().get("CPU", 1)))

    return write


def _written(tasks: Sequence[Task], done: Callable[[int], None], at_once: int) -> Generator[Written, None, None]:
    """Give the shards in the order of the tasks; the first fault in that order is the one raised."""
    import ray

    submit = ray.remote(num_cpus=1, max_retries=_RETRIES)(_write).remote
    waiting = deque[Any]()
    try:
        for task in tasks:
            waiting.append(submit(task))
            if len(waiting) > at_once:
                yield _result(waiting, done)
        while waiting:
            yield _result(waiting, done)
    finally:
        for reference in waiting:
            ray.cancel(reference)


def _result(waiting: deque[Any], done: Callable[[int], None]) -> Written:
    import ray

    try:
        result: Written | RaysegError | OSError = ray.get(waiting[0])
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ClusterError(f"a shard's task failed: {reason[0]:.150}", "Ray", "run the same command again") from None
    waiting.popleft()
    if isinstance(result, Exception):
        raise result
    done(len(result.rows))
    return result


def _write(task: Task) -> Written | RaysegError | OSError:
    """Write a shard; what went wrong is given back as it is, for Ray would wrap it."""
    try:
        if not (task.base / "parts").is_dir():
            fix = "put --root and --out on storage that every node has at the same path"
            raise DataError(f"node {os.uname().nodename} does not see it", task.base, fix)
        return write_alone(task)
    except (RaysegError, OSError) as error:
        return error

"""The local stack, a Ray head and an MLflow server on loopback: `up` starts or mends it, `down` ends it."""

from __future__ import annotations

import time

from rayseg.cluster import client_env, home, record
from rayseg.cluster.head import Answering, ask
from rayseg.cluster.record import PARTS, Stack
from rayseg.cluster.starting import Progress, planned, start, taken
from rayseg.errors import ClusterError
from rayseg.schema import Value, to_dict
from rayseg.tracking.mlflow_tracker import healthy

START_LIMIT_S = 180.0
ANSWER_S = 5.0
PATIENCE_S = 30.0  # a part that lives but does not answer, as on a loaded machine, gets so long before it is restarted


class StackStatus(Value):
    """What is up. `problems` says, by part, why one is not."""

    stack: Stack | None = None
    ray: Answering = Answering(up=False)
    problems: dict[str, str] = {}

    @property
    def up(self) -> bool:
        """Whether all of it is."""
        return self.stack is not None and not self.problems

    def lines(self) -> list[str]:
        """Say it in lines for people."""
        if self.stack is None:
            return ["the local stack is not up: `rayseg up` starts it"]
        lines = [f"{part}: {why}; `rayseg up` mends it" for part, why in self.problems.items()]
        if "ray" not in self.problems:
            size = f"{self.ray.cpus:g} CPUs, {self.ray.gpus:g} GPUs, {self.ray.jobs} jobs running or waiting"
            lines.append(f"ray: up at {self.stack.dashboard_uri}, {size}; its page asks for the token in {self._token}")
        if "mlflow" not in self.problems:
            lines.append(f"mlflow: up at {self.stack.tracking_uri}")
        return [*lines, f"jobs run in {self.stack.root}"]

    @property
    def _token(self) -> str:
        return str(self.stack.token_path) if self.stack else ""


def up(*, progress: Progress = print, limit_s: float = START_LIMIT_S) -> Stack:
    """Start the stack, or the parts of it that died; where all is well do nothing.

    Raises:
        UsageError: no checkout, or a home that cannot be used.
        ClusterError: a part did not answer within `limit_s`; its log is named and what was started is ended.
    """
    with home.locked(progress):
        known = record.load()
        broken = _broken(known) if known else dict.fromkeys(PARTS, "")
        if known is not None and not broken:
            progress(f"the stack is up already; jobs run in {known.root}")
            stack = known
        else:
            for part in broken if known else ():
                progress(f"{part} {broken[part]}: starting it again")
            stack = _mended(known, tuple(broken), progress, limit_s)
        _tell_clients(stack, progress)
        return stack


def down(*, progress: Progress = print) -> list[str]:
    """End what `up` started, jobs first, also after a crash; say what was ended, a line a part."""
    with home.locked(progress):
        ended = record.clear(record.load())
        (home.root() / "stack.json").unlink(missing_ok=True)
        return [f"{part}: ended {count} processes" for part, count in ended.items() if count]


def status() -> StackStatus:
    """Say what is up: processes that live and answer. Asks each part once, and imports neither Ray nor MLflow."""
    stack = record.load()
    if stack is None:
        return StackStatus()
    problems = {part: "has died" for part in PARTS if not stack.lives(part)}
    asked = Answering(up=False)
    if "ray" not in problems and not (asked := ask(stack.dashboard_uri, home.token(), ANSWER_S)).up:
        problems["ray"] = f"does not answer ({asked.why})"
    if "mlflow" not in problems and not healthy(stack.tracking_uri, ANSWER_S):
        problems["mlflow"] = "does not answer"
    return StackStatus(stack=stack, ray=asked, problems=problems)


def client_environment(stack: Stack) -> dict[str, str]:
    """Give the environment variables with which a Ray client reaches this stack; the token itself is not among them."""
    return client_env.variables(to_dict(stack))


def _broken(stack: Stack) -> dict[str, str]:
    deadline = time.monotonic() + PATIENCE_S
    while (problems := status().problems) and all(map(stack.lives, PARTS)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return problems


def _mended(stack: Stack | None, broken: tuple[str, ...], progress: Progress, limit_s: float) -> Stack:
    """Start MLflow alone where Ray lives, for the sake of its jobs; in any other case start all of it anew."""
    if stack is None or "ray" in broken:
        record.clear(stack)
        return start(planned(progress), PARTS, progress, limit_s)
    record.clear(stack, broken)
    if taken(stack.ports["mlflow"]):  # the jobs that run have been told this address
        fix = "end that program, or run `rayseg down` and `rayseg up`"
        raise ClusterError("another program has taken MLflow's port", stack.tracking_uri, fix)
    return start(stack, broken, progress, limit_s)


def _tell_clients(stack: Stack, progress: Progress) -> None:
    if client_env.install() is None:
        exports = " ".join(f"{n}={v}" for n, v in client_environment(stack).items() if n.startswith("RAY_"))
        progress(f"site-packages cannot be written: before `ray job submit`, export {exports}")

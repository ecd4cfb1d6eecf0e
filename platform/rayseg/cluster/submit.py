"""Submitting a job file: to the local stack as it lies there, to another head as an upload; its log, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayseg.cluster import home
from rayseg.cluster.package import pack
from rayseg.cluster.target import Target, check, choose
from rayseg.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_S = 0.5
LOST_AFTER = 20  # polls in a row without an answer
STOP_LIMIT_S = 60.0
NO_ENV: Mapping[str, str] = {}


def submit(
    entrypoint: Sequence[str],
    *,
    working_dir: Path | None = None,
    wait: bool = True,
    env: Mapping[str, str] = NO_ENV,
    address: str | None = None,
    insecure: bool = False,
) -> int:
    """Run a job file and its arguments on a cluster; stream its log; give the code to exit with.

    The local stack runs it in the repository's root without an upload; any other head (`address`, or
    RAY_API_SERVER_ADDRESS) gets `working_dir`, by default the repository's root. `env` is set for the job and its
    workers; it is shown on Ray's dashboard, so no secrets. The first Ctrl-C stops the job and gives 130.

    Raises:
        UsageError: no such file, or a folder that cannot be uploaded.
        ClusterError: no cluster, one that cannot be trusted (`insecure` accepts it), or it went away.
    """
    target = choose(address)
    upload = working_dir if working_dir or target.local_root else home.project_root()
    command = _command(entrypoint, upload, target.local_root)
    check(target, insecure=insecure)
    with _client(target) as client:
        job = _send(client, command, upload, dict(env))
        if wait:
            return _follow(client, job)
        print(f"submitted {job}; `ray job logs --follow {job}` shows its log", flush=True)
        return 0


# --- before -----------------------------------------------------------------------------------------------------------


def _command(entrypoint: Sequence[str], upload: Path | None, local_root: Path | None) -> list[str]:
    """Give the argv that the head runs in the uploaded folder, or in its own root."""
    if not entrypoint:
        raise UsageError("no job to submit", "entrypoint", "name a file, such as jobs/gald_sweep.py")
    first, *rest = entrypoint
    if Path(first).name.startswith("python") and rest and rest[0].endswith(".py"):
        return [first, _file(rest[0], upload, local_root), *rest[1:]]
    if first.endswith(".py") or shutil.which(first) is None:
        return ["python", _file(first, upload, local_root), *rest]
    return list(entrypoint)


def _file(given: str, upload: Path | None, local_root: Path | None) -> str:
    root = (upload or local_root or Path.cwd()).absolute()
    found = next((place for place in (Path.cwd() / given, root / given) if place.is_file()), None)
    if found is None:
        jobs = ", ".join(sorted(f"jobs/{path.name}" for path in root.glob("jobs/*.py") if path.name[0] != "_"))
        raise UsageError(f"no job file {given!r}", root, f"there are: {jobs}" if jobs else "name a file that is there")
    found = Path(os.path.normpath(found))
    if found.is_relative_to(root):
        return str(found.relative_to(root))
    if upload is not None:
        raise UsageError("the job file is outside the working directory", found, f"move it below {root}")
    return str(found)


@contextlib.contextmanager
def _client(target: Target) -> Iterator[JobSubmissionClient]:
    """Connect with the token in the request's header: this process's own Ray settings stay as they are."""
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # says that a web socket closed
    token = target.token()
    # The address in the environment would overrule the argument, and a proxy would be asked for 127.0.0.1 too.
    direct = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1,localhost"]))
    with _environment(RAY_API_SERVER_ADDRESS=target.address, no_proxy=direct):
        try:
            yield JobSubmissionClient(target.address, headers={"Authorization": f"Bearer {token}"} if token else None)
        except BrokenPipeError:
            raise
        except (RuntimeError, OSError) as error:
            what = f"the head refused or went away: {_first_line(error)}"
            raise ClusterError(what, target.address, "rayseg status") from None


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _send(client: JobSubmissionClient, command: Sequence[str], upload: Path | None, env: dict[str, str]) -> str:
    runtime_env: dict[str, Any] = {"env_vars": env} if env else {}
    with tempfile.TemporaryDirectory() as folder:
        if upload is not None:
            package = Path(folder) / "working_dir.zip"
            size = pack(upload, package, lambda line: print(line, flush=True))
            print(f"uploading {upload} ({size / 2**20:.1f} MiB zipped)", flush=True)
            runtime_env["working_dir"] = str(package)
        return str(client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime_env))


# --- after ------------------------------------------------------------------------------------------------------------


def _follow(client: JobSubmissionClient, job: str) -> int:
    try:
        info = asyncio.run(_watch(client, job))
    except KeyboardInterrupt:
        print(f"\nstopping {job}; Ctrl-C again leaves it to itself", file=sys.stderr, flush=True)
        _stop(client, job)
        return 130
    code = info.driver_exit_code
    if code is None:
        reason = _first_line(info.message or "no reason given")
        raise ClusterError(f"the job was {str(info.status).lower()}: {reason}", job, f"see `ray job logs {job}`")
    return code if code >= 0 else 128 - code  # a negative code is a signal's number


async def _watch(client: JobSubmissionClient, job: str) -> Any:
    """Print the log as it comes until the job ended.

    Ray's own tail notices the end up to 7 s late, so the status is asked for as well and the log's rest fetched.
    """
    shown = 0

    async def tail() -> None:
        nonlocal shown
        async for text in client.tail_job_logs(job):
            _print(text)
            shown += len(text)

    tailing = asyncio.create_task(tail())
    try:
        while not (info := await _info(client, job)).status.is_terminal():
            if tailing.done() and isinstance(tailing.exception(), BrokenPipeError):
                raise BrokenPipeError
            await asyncio.sleep(POLL_S)
    finally:
        tailing.cancel()
        await asyncio.gather(tailing, return_exceptions=True)
    _print((await asyncio.to_thread(client.get_job_logs, job))[shown:])
    return info


async def _info(client: JobSubmissionClient, job: str) -> Any:
    for attempt in range(LOST_AFTER):
        try:
            return await asyncio.to_thread(client.get_job_info, job)
        except (RuntimeError, OSError):
            if attempt == LOST_AFTER - 1:
                raise
            await asyncio.sleep(POLL_S)


def _stop(client: JobSubmissionClient, job: str) -> None:
    client.stop_job(job)
    deadline = time.monotonic() + STOP_LIMIT_S
    while not client.get_job_info(job).status.is_terminal() and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _first_line(said: object) -> str:
    return next((line.strip()[:160] for line in str(said).splitlines() if line.strip()), "")

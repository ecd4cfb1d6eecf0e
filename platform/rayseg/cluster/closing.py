"""What killed processes left open at the tracker: closed by `rayseg up`, before it brings everything to MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rayseg.durable import LOCK, try_lock
from rayseg.tracking.spool import SpoolTracker
from rayseg.train import attempts


def close_dead(root: Path) -> list[Path]:
    """Close the runs and sweeps under `root` that are open and that no process works in; give their folders.

    They go on like any other: a run that is over and goes on is open again.
    """
    return [run_dir for run_dir in _tracked(root) if _closed(run_dir)]


def _tracked(root: Path) -> list[Path]:
    return sorted(path.parents[1] for path in root.rglob("tracking/run.json"))


def _closed(run_dir: Path) -> bool:
    sweep = run_dir.parents[1]
    with _free(sweep) as unled, _free(run_dir) as alone:
        if not (unled and alone):
            return False
        tracker = SpoolTracker(run_dir)
        if not tracker.open:
            return False
        attempts.bury(run_dir, tracker)
        tracker.tag("stopped", attempts.KILLED)
        tracker.close("KILLED")
        return True


@contextmanager
def _free(folder: Path) -> Iterator[bool]:
    """Hold a folder for as long as it takes, where nobody does; one that nobody ever held is free."""
    with ExitStack() as held:
        file = None
        with suppress(FileNotFoundError):
            file = held.enter_context((folder / LOCK).open("r+"))
        yield file is None or try_lock(file)

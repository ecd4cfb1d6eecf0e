"""Which code a run was made by: the commit of the repository that rayseg lies in, else the package's version."""

from __future__ import annotations

import functools
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@functools.cache
def tags() -> dict[str, str]:
    """Give the tags of a run: `code` in words, and the source and its commit as MLflow's own page shows them."""
    source = {"mlflow.source.name": "rayseg", "mlflow.source.type": "LOCAL"}
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "__init__.py") else None
    if commit is None:
        return source | {"code": f"rayseg {_version()}"}
    changed = bool(_git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no"))
    words = f"rayseg {_version()}, commit {commit[:10]}{', with changes' if changed else ''}"
    at = {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": str(changed).lower()}
    return source | at | {"code": words}


def _git(*arguments: str) -> str | None:
    """Ask git about the package's folder; None where there is no git, or no repository."""
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()


def _version() -> str:
    try:
        return version("rayseg")
    except PackageNotFoundError:
        return "0"

"""Finds the project's environment: a job file started by another Python starts itself again with the right one."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def require() -> None:
    """Return where rayseg can be imported; else start again with `.venv`, or say in three lines what is missing."""
    if find_spec("rayseg") is not None:
        return
    root = Path(__file__).resolve().parent.parent
    python = root / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix) != root / ".venv":
        os.execv(python, [str(python), *sys.argv])
    sys.stderr.write(
        f"error: rayseg is not installed (for {sys.executable}): run `make setup` in {root}\n"
        "  then either `make sweep`,\n"
        "  or `source .venv/bin/activate` and start this file again\n"
    )
    sys.exit(2)

"""What a job on another machine gets to see: a folder as one zip, without secrets, environments and data."""

from __future__ import annotations

import logging
from pathlib import Path

from rayseg.errors import UsageError

EXCLUDED = (
    *(".git", ".venv", "venv", "__pycache__", "*.egg-info", ".*_cache"),
    *(".env", ".env.*", ".netrc", ".aws", ".ssh", "*.pem", "*.key", "id_rsa*", "id_ed25519*", "credentials*"),
    *("runs", "shards", "mlruns", "*.tar", "*.safetensors"),
)
"""Left out besides what .gitignore and .rayignore name, in their syntax."""

LIMIT_BYTES = 100 * 2**20  # the dashboard takes no larger request, and would say 413 after the whole upload


def pack(folder: Path, target: Path) -> int:
    """Write the folder as the zip `target` and give its size in bytes.

    Raises:
        UsageError: no folder, or more than the head takes.
    """
    from ray._private.runtime_env.packaging import create_package  # what --working-dir does, but with the size told

    if not folder.is_dir():
        raise UsageError("the working directory is no folder", folder, "give the repository's root")
    quiet = logging.Logger("rayseg.package", logging.ERROR)
    create_package(str(folder), target, include_gitignore=True, excludes=list(EXCLUDED), logger=quiet)
    size = target.stat().st_size
    if size > LIMIT_BYTES:
        what = f"the working directory is {size / 2**20:.0f} MiB zipped, the head takes {LIMIT_BYTES >> 20}"
        raise UsageError(what, folder, "name what the job does not need in .rayignore")
    return size

"""What a job on another machine gets to see: a folder as one zip, without secrets, environments and data.

The zip is not compressed, as Ray makes it: its size is known before anything is written, and what is too large is
refused with what makes it so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

from rayseg.errors import UsageError

EXCLUDED = (
    *(".git", ".venv", "venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"),
    *(".env", ".env.*", "*.env", ".netrc", ".pypirc", ".npmrc", ".pgpass", ".git-credentials"),
    *(".aws", ".ssh", ".gnupg", ".kube", ".docker", ".config", ".rayseg"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *("credentials*", "auth_token", "cluster-token", "mlflow-password", "*service[-_]account*.json"),
    *("/data", "runs", "shards", "mlruns", "*.db", "*.sqlite", "*.sqlite3"),
    *("*.tar", "*.tar.*", "*.tgz", "*.zip", "*.parquet", "*.mat", "*.npy", "*.npz"),
    *("*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.onnx"),
)
"""Left out besides what .gitignore and .rayignore name, in their syntax. The repository's .rayignore has the same list,
for `ray job submit --working-dir .`."""

LIMIT_BYTES = 100 * 2**20  # the dashboard takes no larger request, and would say 413 after the whole upload
LARGE_BYTES = 10 * 2**20
"""From here on the largest files are named: most jobs are a few hundred KiB of text."""
NAMED = 3
_KEY_BEGINS, _KEY_BYTES = b"-----BEGIN ", 100

Show = Callable[[str], None]


class Load(NamedTuple):
    """What travels of a folder: path (relative) and bytes of each; `left_out` says what does not though it has no
    suspicious name, and why."""

    files: list[tuple[Path, int]]
    left_out: list[str]

    @property
    def bytes(self) -> int:
        """Sum them up."""
        return sum(size for _, size in self.files)

    def largest(self) -> str:
        """Name the largest files."""
        chosen = sorted(self.files, key=lambda file: -file[1])[:NAMED]
        return ", ".join(f"{path} {size / 2**20:.1f} MiB" for path, size in chosen)


def pack(folder: Path, target: Path, show: Show = lambda line: None) -> int:
    """Write the folder as the zip `target`, say what is worth saying of it, and give its size in bytes.

    Raises:
        UsageError: no folder, or more than the head takes; nothing is written then.
    """
    if not folder.is_dir():
        raise UsageError("the working directory is no folder", folder, "give the repository's root")
    load = lay_out(folder)
    for line in load.left_out:
        show(f"left out: {line}")
    if load.bytes > LIMIT_BYTES:
        raise _too_large(load.bytes, load, folder)
    with ZipFile(target, "w", strict_timestamps=False) as archive:
        for path, _ in load.files:
            archive.write(folder / path, path)
    size = target.stat().st_size
    if size > LIMIT_BYTES:  # by the names of very many files
        raise _too_large(size, load, folder)
    if size > LARGE_BYTES:
        show(f"the largest of {len(load.files)} files: {load.largest()}; .rayignore keeps files here")
    return size


def _too_large(size: int, load: Load, folder: Path) -> UsageError:
    what = f"the working directory is {size / 2**20:.0f} MiB zipped, the head takes {LIMIT_BYTES >> 20}"
    fix = "name what the job does not need in .rayignore"
    return UsageError(f"{what}; the largest files: {load.largest()}", folder, fix)


def lay_out(folder: Path) -> Load:
    """List what travels; ignore files count as they do for Ray's own `--working-dir`."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    folder = folder.absolute()
    load = Load([], [])

    def suspicious(path: Path) -> bool:
        if (why := _why_not(path, folder)) is not None:
            load.left_out.append(f"{path.relative_to(folder)} ({why})")
        return why is not None

    def take(path: Path) -> None:
        if path.is_file():
            load.files.append((path.relative_to(folder), path.stat().st_size))

    quiet = logging.Logger("rayseg.package", logging.ERROR)
    _dir_travel(folder, [_Named(_get_excludes(folder, list(EXCLUDED)), suspicious)], take, True, quiet)
    load.files.sort()
    return load


class _Named:
    """Leaves out what a name forbids, and only then looks closer."""

    def __init__(self, by_name: Callable[[Path], bool], closer: Callable[[Path], bool]) -> None:
        self._by_name, self._closer = by_name, closer

    def __call__(self, path: Path) -> bool:
        return self._by_name(path) or self._closer(path)


def _why_not(path: Path, folder: Path) -> str | None:
    """Say why something stays here though its name is harmless."""
    if path.is_symlink():
        if not path.resolve().is_relative_to(folder.resolve()):
            return "a link out of the folder"
        if path.is_dir():
            return "a link to a folder"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            begin = file.read(_KEY_BYTES)
    except OSError:
        return "it cannot be read"
    return "a private key" if begin.startswith(_KEY_BEGINS) and b"PRIVATE KEY-----" in begin else None

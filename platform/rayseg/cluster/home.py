"""Where rayseg keeps things on this machine: one folder (RAYSEG_HOME, default ~/.rayseg), open to its owner alone.

    stack.json   the local stack that is up, if any        logs/     what Ray and MLflow said
    token        what every Ray we start asks for, 0600    mlflow/   the tracking server's database and artifacts
    lock         held while a stack starts or ends         runs/, shards/

Imports nothing heavy: the `ray` command reads it at its own start (client_env.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rayseg.durable import try_lock
from rayseg.errors import ClusterError, DataError, UsageError

FOLDERS = ("logs", "mlflow", "runs", "shards")
RUN_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
CHECKOUT = Path(__file__).absolute().parents[3]


def root() -> Path:
    """Make the home and its folders, 0700, where they are missing, and say where it is.

    Raises:
        UsageError: it cannot be made, or others may look into it (a token lies there).
    """
    home = location()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(home)
        for name in FOLDERS:
            (home / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot use it: {error.strerror}", home, "set RAYSEG_HOME to a folder of yours") from None
    return home


def location() -> Path:
    """Say where the home is, absolute; it need not exist."""
    given = os.environ.get("RAYSEG_HOME")
    try:
        return Path(given).expanduser().absolute() if given else Path.home() / ".rayseg"
    except RuntimeError:
        raise UsageError("no home directory", "HOME", "set HOME or RAYSEG_HOME to a folder of yours") from None


def _check_private(home: Path) -> None:
    status = home.stat()
    if status.st_uid != os.getuid():
        raise UsageError("it belongs to another user", home, "set RAYSEG_HOME to a folder of yours")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UsageError("others may look into it, and a token lies there", home, f"chmod 700 {home}")


def write_private(path: Path, text: str) -> None:
    """Replace the file at once, mode 0600: a reader sees the old content or the new one, also after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def ensure_token() -> Path:
    """Give the token's file; where there is none, draw 32 random bytes first. The token itself is never printed.

    It stays the same from stack to stack, so that a stack that starts locks out no Ray that runs inside a process.
    """
    path = root() / "token"
    if token() is None:
        write_private(path, secrets.token_hex(32))
    path.chmod(0o600)
    return path


def token() -> str | None:
    """Read the token, if there is one."""
    with contextlib.suppress(OSError):
        return (location() / "token").read_text().strip() or None
    return None


def stack_record() -> dict[str, Any] | None:
    """Read stack.json as it stands: None where there is none, {} where it is no record (stack.py checks its fields)."""
    try:
        found = json.loads((location() / "stack.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def tracking_uri() -> str | None:
    """Say where runs are tracked: RAYSEG_TRACKING_URI (set inside jobs), else the server of the stack that is up."""
    if given := os.environ.get("RAYSEG_TRACKING_URI"):
        return given
    record = stack_record() or {}
    return record.get("tracking_uri") if part_exists(record, "mlflow") else None


def part_exists(record: Mapping[str, Any], part: str) -> bool:
    """Whether processes have the numbers that stack.json notes for a part ("ray", "mlflow"); stack.py looks closer."""
    pids = [process["pid"] for process in record.get("processes", ()) if process["part"] == part]
    try:
        for pid in pids:
            os.kill(pid, 0)
    except OSError:
        return False
    return bool(pids)


def runs() -> Path:
    """Say where runs and sweeps are kept, one folder each."""
    return root() / "runs"


def run_path(name: str) -> Path:
    """Give the folder of the run or sweep `name`; it need not exist.

    Raises:
        UsageError: not a plain name, or the folder leads outside runs/.
    """
    if not RUN_NAME.fullmatch(name) or set(name) == {"."}:
        raise UsageError(f"the name {name[:40]!r}", "name", "use 1-128 of A-Z a-z 0-9 . _ - and no path")
    folder = runs() / name
    if folder.is_symlink():
        raise UsageError("a run's folder is no link", folder, "choose another name")
    return folder


def shards_of(card: str, given: str | None, show: Callable[[str], None]) -> str:
    """Give the folder of a card's shards: `given`, also a URL, else shards/<name> here, where a drawn set's are drawn.

    Raises:
        DataError: there are none, and they cannot be drawn.
    """
    from rayseg.data import card as cards
    from rayseg.data import manifest, shards
    from rayseg.train.progress import Steps

    if given is not None:
        return given if ":" in given else str(Path(given).absolute())
    chosen = cards.load(card)
    folder = root() / "shards" / chosen.name
    if not folder.exists() and chosen.generated is None:
        fix = f"rayseg shard {card} --root RAW --out {folder}, or name them with --shards"
        raise DataError(f"no shards of {chosen.name}", folder, fix)
    if chosen.generated is not None and manifest.is_outdated(folder):
        show(f"the data set {chosen.name} is there in another version's form: it is drawn again")
        shutil.rmtree(folder)
    if not folder.exists():
        show(f"drawing the data set {chosen.name} once: {folder}")
        tick = Steps(f"drawing {chosen.name}", show).tick
        shards.write(chosen, None, folder, workers=os.cpu_count() or 1, progress=tick)
    return str(folder)


def check_card(asked: str | None, found: str) -> None:
    """Refuse shards of another data set than the one that was asked for by name.

    Raises:
        UsageError: they are of another card.
    """
    from rayseg.data import card as cards

    if asked is not None and cards.load(asked).name != found:
        raise UsageError(
            f"these are shards of {found}, not of {asked}", "--shards", "name the other shards, or no --dataset"
        )


def project_root(start: Path | None = None) -> Path:
    """Find the checkout: the nearest parent of `start` (default: cwd) that is rayseg's, else the installed source's.

    Raises:
        UsageError: there is neither.
    """
    here = (start or Path.cwd()).absolute()
    for candidate in (here, *here.parents, CHECKOUT):
        if _is_rayseg(candidate / "pyproject.toml"):
            return candidate
    raise UsageError("no checkout of rayseg here", here, "cd to the repository's root")


def _is_rayseg(pyproject: Path) -> bool:
    try:
        return bool(tomllib.loads(pyproject.read_text())["project"]["name"] == "rayseg")
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def locked(progress: Callable[[str], None], limit_s: float = 240.0) -> Iterator[None]:
    """Hold the home's lock; one `rayseg up` or `down` at a time. It ends with the process, however that ends.

    Raises:
        ClusterError: another process held it all the time.
    """
    path = root() / "lock"
    deadline = time.monotonic() + limit_s
    told = False
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        while not try_lock(file):
            if time.monotonic() > deadline:
                fix = "wait for the other `rayseg up` or `rayseg down` to end"
                raise ClusterError(f"the stack was busy for {limit_s:.0f} s", path, fix)
            if not told:
                progress("waiting for another `rayseg up` or `rayseg down` to end")
            told = True
            time.sleep(0.2)
        yield

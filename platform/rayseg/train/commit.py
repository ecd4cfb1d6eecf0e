"""Commits: what a run resumes from, whole or not there at all.

A commit is a directory `commits/step-NNNNNNNN` with a safetensors file for each group of tensors (`model`, `optimizer`
and whatever else the updates keep), `state.json` and a `MANIFEST.json` (size and sha256 of each) written last. It is
built under a temporary name, every file and the directory are synced, and one rename makes it visible. A resume takes
the newest commit, by its step and never by a file's time, whose every byte matches. Ray's own snapshot is never read:
it loses what was reported within two seconds of a failure. No pickle anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rayseg.data import cursor
from rayseg.durable import sha256, sync, write_text
from rayseg.errors import CheckpointError

FORMAT = 1
MANIFEST, EVALUATION, TENSORS = "MANIFEST.json", "evaluation.npz", ".safetensors"
BUILDING, DAMAGED = ".building-", "damaged-"
Tensors = dict[str, Tensor]


class Commit(NamedTuple):
    """A commit's place and what its `state.json` says."""

    path: Path
    step: int
    state: dict[str, Any]


def write(
    run_dir: Path,
    step: int,
    tensors: Mapping[str, Tensors],
    state: Mapping[str, Any],
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """Write a commit for `step` (updates done): a safetensors file per name of `tensors`, the state, and other files.

    Raises:
        CheckpointError: the disk is full or read-only; what was there before is untouched.
    """
    with _building(run_dir, step) as folder:
        for name, group in tensors.items():
            plain = {key: value.detach().contiguous().cpu() for key, value in group.items()}
            save_file(plain, folder / f"{name}{TENSORS}")
        for name, data in files.items():
            (folder / name).write_bytes(data)
        write_text(folder / "state.json", json.dumps({**state, "step": step}, indent=1))
    return path_of(run_dir, step)


@contextmanager
def _building(run_dir: Path, step: int) -> Iterator[Path]:
    """Give a folder to fill, and make it the commit of `step` in one rename once it is whole."""
    final = path_of(run_dir, step)
    building = final.with_name(f"{BUILDING}{step:08d}-{os.getpid()}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        yield building
        listed = {p.name: {"size": p.stat().st_size, "sha256": sha256(p)} for p in sorted(building.iterdir())}
        for path in building.iterdir():
            sync(path)
        write_text(building / MANIFEST, json.dumps({"format": FORMAT, "step": step, "files": listed}, indent=1))
        sync(building)
        shutil.rmtree(final, ignore_errors=True)
        building.rename(final)
        sync(final.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(building, ignore_errors=True)
        what = f"cannot write the commit of step {step}: {error}"
        raise CheckpointError(what, final.parent, "make room, then run the same command again") from None


def newest(run_dir: Path, warn: Callable[[str], None] = print) -> Commit | None:
    """Find the newest whole commit; None where the run has none yet.

    A damaged one is skipped with one line.

    Raises:
        CheckpointError: there are commits and none is whole. A run never starts again from 0 by itself.
    """
    found = commits(run_dir)
    for path in reversed(found):
        try:
            return read(path)
        except CheckpointError as error:
            warn(f"warning: skipping a damaged commit: {error}")
    found += (run_dir / "commits").glob(f"{DAMAGED}*")
    if found:
        raise CheckpointError(
            f"none of {len(found)} commits is whole",
            run_dir,
            "restore one from a copy, or choose another run directory to start anew",
        )
    return None


def path_of(run_dir: Path, step: int) -> Path:
    """Say where the commit of `step` lies, whether it is there or not."""
    return run_dir / "commits" / f"step-{step:08d}"


def commits(run_dir: Path) -> list[Path]:
    """List the commits' directories, oldest first, whole or not."""
    return sorted((run_dir / "commits").glob("step-*"))


def read(path: Path) -> Commit:
    """Check every file of a commit against its manifest and give its state.

    Raises:
        CheckpointError: a file is missing, of another size or of another content.
    """
    fix = "use another commit of the run"
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"format {manifest['format']}, this is {FORMAT}", path, "use the version that wrote it"
            )
        for name, expected in manifest["files"].items():
            file = path / name
            if file.stat().st_size != expected["size"] or sha256(file) != expected["sha256"]:
                raise CheckpointError(f"{name} is not what was written", path, fix)
        written = {MANIFEST, *manifest["files"]}
        if extra := sorted(p.name for p in path.iterdir() if p.name not in written and not p.name.startswith(".")):
            raise CheckpointError(f"{extra[0]} was not written with it", path, fix)
        state = json.loads((path / "state.json").read_text())
        if state["step"] != manifest["step"]:
            raise CheckpointError(f"{MANIFEST} is not what was written", path, fix)
        return Commit(path, state["step"], state)
    except FileNotFoundError as error:
        raise CheckpointError(f"{Path(error.filename).name} is missing", path, fix) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{MANIFEST} or state.json cannot be read: {error}", path, fix) from None


def tensors(commit: Commit, name: str) -> Tensors:
    """Load one group of a commit's tensors to the CPU."""
    return load_file(commit.path / f"{name}{TENSORS}")


def best_weights(commit: Commit) -> Tensors:
    """Load the weights that the commit was evaluated with: their moving average where the run keeps one."""
    averaged = (commit.path / f"ema{TENSORS}").exists()
    return tensors(commit, "model") | (tensors(commit, "ema") if averaged else {})


def load_model(commit: Commit, model: nn.Module) -> None:
    """Put a commit's weights into the model.

    Raises:
        CheckpointError: the model is another one; the first three names and the count are said.
    """
    found, wanted = tensors(commit, "model"), model.state_dict()
    wrong = sorted(found.keys() ^ wanted.keys()) + [
        k for k in sorted(found.keys() & wanted.keys()) if found[k].shape != wanted[k].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} weights do not fit the model: {', '.join(wrong[:3])}",
            commit.path,
            "build the model from the commit's own config",
        )
    model.load_state_dict(found)


def adopt(donor_run_dir: Path, step: int, run_dir: Path, state: Mapping[str, Any]) -> Path:
    """Begin a run with the commit of `step` of another one, or its newest where that is gone, and say where it lies.

    The files are hard links, so weights and momentum take no room; `state` says what is not the donor's, `config`
    above all. The run's best evaluation is the commit's own, and its seconds count from 0.

    Raises:
        CheckpointError: the donor has no whole commit, or the disk is full.
    """
    found = _there(donor_run_dir, step)
    progress = dict(found.state["progress"])
    judged = (found.path / EVALUATION).exists()
    progress |= (
        {"best_step": found.step, "best_miou": progress["miou"]} if judged else {"best_step": 0, "best_miou": -1}
    )
    whole = {**found.state, "progress": progress | {"seconds": 0.0}, **state}
    whole.pop("report", None)  # it was the donor's
    config = whole["config"]
    whole["cursor"] = cursor.moved(whole["cursor"], found.step, config["train"]["batch"], config["seed"])
    with _building(run_dir, found.step) as folder:
        for name in json.loads((found.path / MANIFEST).read_text())["files"]:
            if name != "state.json":
                _link(found.path / name, folder / name)
        write_text(folder / "state.json", json.dumps(whole, indent=1))
    return path_of(run_dir, found.step)


def _there(run_dir: Path, step: int) -> Commit:
    """Read the commit of `step`, or the newest; a running donor may prune one while it is read."""
    for path in (path_of(run_dir, step), *reversed(commits(run_dir))):
        try:
            return read(path)
        except CheckpointError:
            continue
    raise CheckpointError("no whole commit to begin with", run_dir, "choose another donor")


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def prune(run_dir: Path, *, keep_last: int = 2, best: int | None = None) -> None:
    """Remove all commits but the newest `keep_last` and that of step `best`, and what a killed writer left."""
    for path in commits(run_dir)[:-keep_last]:
        if best is None or path.name != f"step-{best:08d}":
            shutil.rmtree(path, ignore_errors=True)
    _remove_unfinished(run_dir)


def tidy(run_dir: Path, after: int) -> None:
    """Remove what a killed writer left, and set the damaged commits behind step `after` aside, so that they are past.

    Only the one that holds the run directory, and goes on from the commit of `after`, may ask.
    """
    _remove_unfinished(run_dir)
    for path in commits(run_dir):
        if path.name > path_of(run_dir, after).name:
            aside = path.with_name(f"{DAMAGED}{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def _remove_unfinished(run_dir: Path) -> None:
    for path in (run_dir / "commits").glob(f"{BUILDING}*"):
        shutil.rmtree(path, ignore_errors=True)

"""Commits: what a run resumes from, whole or not there at all.

A commit is a directory `commits/step-NNNNNNNN` with `model.safetensors`, `optimizer.safetensors`, `state.json` and a
`MANIFEST.json` (size and sha256 of each) written last. It is built under a temporary name, every file and the
directory are synced, and one rename makes it visible. A resume takes the newest commit whose every byte matches.
Ray's own snapshot is never read: it loses what was reported within two seconds of a failure. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rayseg.errors import CheckpointError

FORMAT = 1
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
    final = path_of(run_dir, step)
    folder = final.parent
    building = folder / f".building-{step:08d}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        for name, group in tensors.items():
            save_file({k: v.detach().contiguous().cpu() for k, v in group.items()}, building / f"{name}.safetensors")
        for name, data in files.items():
            (building / name).write_bytes(data)
        _write_text(building / "state.json", json.dumps({**state, "step": step}, indent=1))
        listed = {p.name: {"size": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(building.iterdir())}
        for path in building.iterdir():
            _sync(path)
        _write_text(building / "MANIFEST.json", json.dumps({"format": FORMAT, "step": step, "files": listed}, indent=1))
        _sync(building)
        shutil.rmtree(final, ignore_errors=True)
        building.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise CheckpointError(
            f"cannot write the commit of step {step}: {error}", folder, "make room, then run the same command again"
        ) from None
    return final


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
        manifest = json.loads((path / "MANIFEST.json").read_text())
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"format {manifest['format']}, this is {FORMAT}", path, "use the version that wrote it"
            )
        for name, expected in manifest["files"].items():
            file = path / name
            if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
                raise CheckpointError(f"{name} is not what was written", path, fix)
        state = json.loads((path / "state.json").read_text())
        return Commit(path, int(manifest["step"]), state)
    except FileNotFoundError as error:
        raise CheckpointError(f"{Path(error.filename).name} is missing", path, fix) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"MANIFEST.json or state.json cannot be read: {error}", path, fix) from None


def tensors(commit: Commit, name: str) -> Tensors:
    """Load one group of a commit's tensors to the CPU."""
    return load_file(commit.path / f"{name}.safetensors")


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


def prune(run_dir: Path, *, keep_last: int = 2, best: int | None = None) -> None:
    """Remove all commits but the newest `keep_last` and that of step `best`, and what a killed writer left."""
    for path in commits(run_dir)[:-keep_last]:
        if best is None or path.name != f"step-{best:08d}":
            shutil.rmtree(path, ignore_errors=True)
    for path in (run_dir / "commits").glob(".building-*"):
        shutil.rmtree(path, ignore_errors=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensors:
    """Name the optimizer's momentum after the parameters it belongs to."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {
        names[p]: values["momentum_buffer"]
        for p, values in optimizer.state.items()
        if values.get("momentum_buffer") is not None
    }


def load_optimizer(commit: Commit, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Give each parameter the momentum it had."""
    momentum = tensors(commit, "optimizer")
    for name, parameter in model.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file in one step, synced."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    _write_text(partial, text)
    partial.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

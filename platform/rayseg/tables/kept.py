"""Finished runs in the folders of this machine, as a tracking server would tell of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rayseg import config as configs
from rayseg.errors import RaysegError
from rayseg.sweep import memory
from rayseg.tracking.history import Earlier
from rayseg.tracking.identity import RunIdentity, read_identity
from rayseg.tracking.spool import read_lines

SUMMARY = "summary.json"
CONTEXTS = ("train", "validation")


def kept(runs: Path, wanted: Collection[str]) -> list[Earlier]:
    """Read the runs under `runs`, single ones and sweeps' trials, whose config has one of these digests.

    What cannot be read is left out: it may be a run in the middle of its start, or another version's.
    """
    found = []
    for summary in sorted([*runs.glob(f"*/{SUMMARY}"), *runs.glob(f"*/trials/*/{SUMMARY}")]):
        try:
            who = read_identity(summary.parent)
            digest = _config(summary.parent, who)
            if digest in wanted:
                found.append(_read(summary.parent, who, digest))
        except (RaysegError, OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _config(run_dir: Path, who: RunIdentity) -> str:
    """Give the digest of a run's config; a single run's is worked out from the config that it wrote down."""
    if memory.CONFIG in who.tags:
        return who.tags[memory.CONFIG]
    if who.tags.get("rayseg.kind") != "run":
        return ""
    return configs.digest(configs.from_dict(json.loads((run_dir / "tracking" / "config.json").read_text()), run_dir))


def _read(run_dir: Path, who: RunIdentity, digest: str) -> Earlier:
    curve: dict[int, float] = {}
    tags = dict(who.tags) | {memory.CONFIG: digest, memory.RUN_KEY: who.run_key}
    for content in _of_the_run(run_dir):
        if content["kind"] == "metrics" and memory.MIOU in content["values"]:
            curve.setdefault(content["step"], content["values"][memory.MIOU])
        elif content["kind"] == "tag":
            tags[content["name"]] = content["value"]
        elif content["kind"] == "inputs":
            splits = {dataset["context"]: dataset["digest"] for dataset in content["datasets"]}
            tags.setdefault(memory.DATA, memory.data_digest(*(splits[context] for context in CONTEXTS)))
    return Earlier("", who.run_name, who.experiment, tags, {memory.MIOU: curve}, {})


def _of_the_run(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Give the spool's lines that are the run's own, not an attempt's."""
    for line in read_lines(run_dir):
        if line.content is not None and line.content.get("attempt") is None:
            yield line.content

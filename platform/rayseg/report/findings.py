"""What a report says of a sweep as a whole: its finals, the classes, the sheets of hard images, and its facts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from rayseg.errors import UsageError
from rayseg.report.trials import Spool
from rayseg.report.values import OfClass, Picture
from rayseg.schema import parse
from rayseg.sweep.judged import PLACE, Judged
from rayseg.train import hardest, review, sheets, tables

OLD_SHEET = "predictions.png"
MOST_BYTES = 3 << 20
"""A picture larger than this is not embedded."""


def finals(folder: Path, notes: list[str]) -> Judged | None:
    """Read how the best trials compare; None where nothing was compared."""
    path = folder / PLACE
    try:
        return parse(Judged, json.loads(path.read_text()), path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, UsageError) as error:
        notes.append(f"left out: {path.name} cannot be read ({error})")
        return None


def run_dir(folder: Path, key: str) -> Path:
    """Say where a trial lies."""
    return folder / hardest.TRIALS / key


def classes(folder: Path, winner: str, base: str) -> tuple[OfClass, ...]:
    """Bring the classes' IoU of two trials together, from the tables that they left."""
    here, there = (_ious(run_dir(folder, key)) for key in (winner, base))
    return tuple(OfClass(name, iou, there.get(name)) for name, iou in here.items())


def _ious(run: Path) -> dict[str, float | None]:
    path = run / review.REVIEW / tables.PER_CLASS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["class"]: float(row["iou"]) if row["iou"] else None for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError):
        return {}


def pictures(folder: Path, winner: str, base: str, notes: list[str]) -> tuple[Picture, ...]:
    """Find the sheets of hard images: best and base side by side, and each one's own where that is not there."""
    about = "The hardest images, as the best of the ranking and the base trial predict them"
    kept: list[tuple[Path | None, str]] = [(folder / sheets.COMPARED, about)]
    if not (folder / sheets.COMPARED).exists():
        whose = {base: "The base trial", winner: "The best trial" if winner != base else "The best and base trial"}
        kept = [(_sheet(run_dir(folder, key)), f"{who}, {key}") for key, who in reversed(whose.items())]
    found = []
    for path, about in kept:
        if path is None or not path.exists():
            continue
        if path.stat().st_size > MOST_BYTES:
            notes.append(f"left out: {path} is {path.stat().st_size / 2**20:.1f} MiB")
            continue
        media = "image/png" if path.suffix == ".png" else "image/jpeg"
        found.append(Picture(about, media, path.read_bytes()))
    return tuple(found)


def _sheet(run: Path) -> Path | None:
    places = [run / review.REVIEW / name for name in (sheets.SHEET, OLD_SHEET)]
    return next((place for place in places if place.exists()), None)


def facts(sweep: Spool, trial: Spool, run_tags: dict[str, str]) -> dict[str, str]:
    """Say what data and which code stand behind the figures."""
    found: dict[str, str] = {}
    for data in sweep.datasets or trial.datasets:
        of = f"{data['samples']} samples, {data['classes']} classes, index {data['digest']}"
        found[f"{data['context']} data"] = f"{data['name']}: {of}"
    if "rayseg.data" in run_tags:
        found["digest of both splits"] = run_tags["rayseg.data"]
    tags = run_tags | trial.tags | sweep.tags
    found |= {
        name: tags[tag] for name, tag in {"code": "code", "model fingerprint": "fingerprint"}.items() if tag in tags
    }
    return found

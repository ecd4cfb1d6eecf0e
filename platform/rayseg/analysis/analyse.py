"""`rayseg analyse`: check what was asked, compute a figure's arrays, draw them, and write both; or change nothing."""

from __future__ import annotations

import importlib
import io
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rayseg.analysis import catalogue, draw, drawings
from rayseg.analysis.catalogue import Figure
from rayseg.analysis.subject import Arrays, Asked, Pixel, Result, Subject, Tick, find, look, open_run
from rayseg.errors import CheckpointError, UsageError

FOLDER = "analyses"


class Request(NamedTuple):
    """What to draw: a figure of the catalogue, of which images (keys), at which point (y, x)."""

    figure: str
    images: tuple[str, ...] = ()
    point: Pixel | None = None
    against: Path | None = None
    split: str | None = None
    shards: str | None = None


class Report(NamedTuple):
    """The files that were written, and the figure's main numbers in words."""

    files: tuple[Path, Path]
    numbers: dict[str, str]


def analyse(place: Path, request: Request, out: Path | None = None, *, progress: Tick | None = None) -> Report:
    """Write a PNG and an NPZ, whose arrays `catalogue` names, into `out` (the run's `analyses` when absent).

    `place` is a run, whose best commit is looked at, or a commit.

    Raises:
        UsageError: no such figure or image, a point outside the image, an option that the figure does not take, or a
            head that does not have what it shows.
        CheckpointError: no run or commit, no commit with an evaluation, other classes than the shards', or what the
            model gives is not finite.
        DataError: no such shards or split.
    """
    figure = catalogue.find(request.figure)
    check(figure, request)
    subject = open_run(place, request.split, request.shards)
    against = None if request.against is None else _second(request.against, subject)
    asked = Asked(figure, subject, against, [find(subject, key) for key in request.images], [], progress)
    if not figure.whole:
        asked = asked._replace(views=[look(subject, sample, request.point) for sample in asked.samples])
    result, sheet = computed(asked), _sheet(asked, request)
    picture = draw.png(getattr(drawings, figure.name)(result.arrays, sheet), sheet)
    stem = _stem(figure, request, subject)
    folder = out or subject.commit.path.parents[1] / FOLDER
    files = (folder / f"{stem}.png", folder / f"{stem}.npz")
    for path, data in zip(files, (picture, _npz(result.arrays)), strict=True):
        _write(path, data)
    return Report(files, result.numbers)


def check(figure: Figure, request: Request) -> None:
    """Refuse what the figure needs and was not given, and what was given and would be ignored.

    Raises:
        UsageError: the first such option.
    """
    fix, ignored = catalogue.asks(figure), f"would be ignored with --figure {figure.name}"
    if len(request.images) > figure.images:
        what = ignored if not figure.images else f"{len(request.images)} images for --figure {figure.name}"
        raise UsageError(what, "--image", fix)
    if figure.images and not request.images:
        raise UsageError(f"--figure {figure.name} is of one image", "--image", fix)
    if figure.point == "needed" and request.point is None:
        raise UsageError(f"--figure {figure.name} is of one point", "--point", fix)
    if figure.point == "refused" and request.point is not None:
        raise UsageError(ignored, "--point", fix)
    if not figure.against and request.against is not None:
        raise UsageError(ignored, "--against", fix)


def _second(run_dir: Path, first: Subject) -> Subject:
    """Open the run to compare with, on the same split."""
    return open_run(run_dir, first.split, str(first.shards.folder))


def _sheet(asked: Asked, request: Request) -> draw.Sheet:
    """Say what stands over a figure: what it shows, and of which run, step and image."""
    figure, subject, against = asked.figure, asked.subject, asked.against
    where = [str(subject)] if against is None else [str(subject), f"against {against}"]
    images = ", ".join(request.images) or f"{len(subject.shards)} images"
    where.append(f"{images} of split {subject.split}")
    if asked.views and asked.views[0].image.shape != asked.samples[0].image.shape:
        where.append("test window {}x{} at y {}, x {}".format(*asked.views[0].mask.shape, *asked.views[0].corner))
    if request.point is not None:
        where.append("point y {}, x {}".format(*request.point))
    names = (*request.images, *(run.name for run in (subject, against) if run is not None))
    return draw.Sheet(subject.shards.card, f"{figure.paper}: {figure.about}", " · ".join(where), names)


def computed(asked: Asked) -> Result:
    """Compute the figure.

    Raises:
        CheckpointError: what the model gives is not finite.
    """
    compute = getattr(importlib.import_module(f"rayseg.analysis.{asked.figure.module}"), asked.figure.name)
    try:
        result: Result = compute(asked)
        for name, values in result.arrays.items():
            if not name.endswith("means") and not np.isfinite(values).all():  # a class that never occurs has no mean
                raise FloatingPointError(f"{name} is not finite")
    except FloatingPointError as error:
        fix = "use another commit of the run, or train it anew"
        raise CheckpointError(str(error), asked.subject.commit.path, fix) from None
    return result


def _stem(figure: Figure, request: Request, subject: Subject) -> str:
    parts = [figure.name, *(request.images or (subject.split,))]
    if request.against is not None:
        parts.append(f"against-{request.against.absolute().name}")
    if request.point is not None:
        parts.append("y{}-x{}".format(*request.point))
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts))


def _npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    compact: dict[str, Any] = dict(arrays)
    np.savez_compressed(buffer, **compact)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        fix = "choose a folder with room that you may write to"
        raise UsageError(f"cannot write it: {error.strerror}", path, f"--out DIR: {fix}") from None

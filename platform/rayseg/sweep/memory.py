"""What earlier sweeps found out of this one's points: which runs count, and as what.

A run is a point of this sweep where its samples and its whole config are the same. From a run of the same family (the
same samples, the same searched names, the same config apart from them) a search that chooses its points learns too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rayseg import config as configs
from rayseg import segmenter
from rayseg.errors import UsageError
from rayseg.sweep.origin import Base, Trial
from rayseg.sweep.searches import Known
from rayseg.tracking.history import Earlier
from rayseg.train.review import Summary

DATA, CONFIG, FAMILY, POINT = "rayseg.data", "rayseg.config", "rayseg.family", "rayseg.point"
RUN_KEY = "rayseg.run_key"
"""What the tracker calls a run: of a trial, its sweep and its own key."""
MIOU, LATENCY = "val/miou", "val/latency_ms"
CURVES = (MIOU, LATENCY)


class Remembered(NamedTuple):
    """A point that is not run again, and the run that it is known from."""

    known: Known
    run_id: str
    run: str


def family(base: Base, data: str) -> str:
    """Hash what sweeps must have in common to learn from each other; `data` is the digest of the samples."""
    names = sorted({*base.space, *(name for row in base.rows for name in row)})
    fixed = {name: v for name, v in configs.identity(configs.from_dict(base.run)).items() if name not in names}
    return _digest([data, names, fixed])


def data_digest(*splits: str) -> str:
    """Hash the digests of all splits that a run sees, in their order."""
    return _digest(list(splits))


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def tags(trial: Trial, base: Base, data: str) -> dict[str, str]:
    """Give the tags by which a later sweep finds a trial that was trained from its own start."""
    return {
        DATA: data,
        CONFIG: configs.digest(trial.config),
        FAMILY: family(base, data),
        POINT: json.dumps(trial.point),
    }


def remember(runs: Iterable[Earlier], made: Sequence[Trial], base: Base, data: str) -> list[Remembered]:
    """Choose the runs that say something of this sweep, one a point, the newest.

    `made` are its trials, where they are known before it starts; without them it learns from its whole family.
    """
    own = family(base, data)
    listed = {configs.digest(trial.config): trial for trial in made}
    found: dict[str, Remembered] = {}
    for run in runs:
        trial = listed.get(run.tags.get(CONFIG, "")) if made else _of_family(run, base, own)
        if trial is not None and run.tags.get(DATA) == data and run.tags.get("stopped", "").startswith("finished"):
            known = _known(trial, run.curves)
            if known is not None:
                found[trial.key] = Remembered(known, run.run_id, run.tags.get(RUN_KEY, run.name))
    return sorted(found.values(), key=lambda r: r.known.trial.number)


def _of_family(run: Earlier, base: Base, own: str) -> Trial | None:
    """Make the trial that a run of the family was; None where this version makes another run of its point."""
    if run.tags.get(FAMILY) != own:
        return None
    try:
        trial = base.trial(0, json.loads(run.tags[POINT]))
    except (UsageError, ValueError, KeyError):
        return None
    return trial if configs.digest(trial.config) == run.tags.get(CONFIG) else None


def _known(trial: Trial, curves: Mapping[str, Mapping[int, float]]) -> Known | None:
    """Read what a run came to; one that did not evaluate its last step is not known to its end."""
    curve = curves.get(MIOU, {})
    if trial.config.train.steps not in curve:
        return None
    best = max(curve, key=lambda step: (curve[step], -step))
    figures = {"step": float(best), "miou": curve[best]}
    if best in curves.get(LATENCY, {}):
        figures["latency_ms"] = curves[LATENCY][best]
    return Known(trial, dict(curve), figures)


def summary(known: Known, num_classes: int) -> Summary:
    """Sum a known point up as the ranking has it; its time was another sweep's, and counts as none."""
    model = segmenter.skeleton(known.trial.config.model(num_classes))
    last = max(known.curve)
    return Summary(
        step=last,
        miou=known.curve[last],
        best_miou=known.figures["miou"],
        best_step=int(known.figures["step"]),
        parameters=sum(p.numel() for p in model.parameters()),
        latency_ms=known.figures.get("latency_ms", 0.0),
        fingerprint=segmenter.fingerprint(model),
        status="known",
        samples_per_s=0.0,
    )


def plain(remembered: Iterable[Remembered]) -> list[dict[str, Any]]:
    """Give what the journal keeps, so that a resumed sweep knows what it knew, whatever the server has by then."""
    return [
        {
            "number": r.known.trial.number,
            "point": r.known.trial.point,
            "curve": {str(step): miou for step, miou in r.known.curve.items()},
            "figures": dict(r.known.figures),
            "run_id": r.run_id,
            "run": r.run,
        }
        for r in remembered
    ]


def again(kept: Iterable[Mapping[str, Any]], base: Base) -> list[Remembered]:
    """Read what the journal keeps."""
    return [
        Remembered(
            Known(
                base.trial(fields["number"], dict(fields["point"])),
                {int(step): miou for step, miou in fields["curve"].items()},
                fields["figures"],
            ),
            fields["run_id"],
            fields["run"],
        )
        for fields in kept
    ]

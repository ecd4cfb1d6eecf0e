"""A sweep's trials as a report has them: its journal, and each trial's summary, config and spool, brought together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayseg.errors import CheckpointError
from rayseg.report.values import Costs, Curve, State, Trial
from rayseg.sweep.journal import Story
from rayseg.tracking.spool import read_lines
from rayseg.train import hardest, review
from rayseg.train.review import Summary

MIOU, LOSS, BOUNDARY = "val/miou", "train/loss", "val/boundary_f1_3px"
CURVES = {MIOU: "mIoU", LOSS: "training loss", BOUNDARY: "boundary F1, 3 px at 1024x2048"}


def gather(folder: Path, story: Story, notes: list[str]) -> list[Trial]:
    """List all trials that were started, and those known from earlier sweeps; what cannot be read is noted."""
    told = _by_key(story)
    found = [_trial(folder, key, events, notes) for key, events in told.items()]
    started = [trial.point for trial in found]
    known = [_known(fields) for fields in story.plan.get("known", ())]
    return found + [trial for trial in known if trial.point not in started]


def ranked(trials: list[Trial]) -> list[Trial]:
    """Sort as the sweep's own ranking: by best mIoU, then by fewer parameters; what counts for nothing comes last."""
    return sorted(trials, key=lambda t: (not t.counts, -(t.miou or 0.0), t.parameters or 0))


def _by_key(story: Story) -> dict[str, list[dict[str, Any]]]:
    """Collect each started trial's events, in the order in which they were started."""
    told: dict[str, list[dict[str, Any]]] = {}
    for event in story.events:
        if event["event"] == "suggest":
            told[event["key"]] = [event]
        elif event.get("key") in told:
            told[event["key"]].append(event)
    return told


def _trial(folder: Path, key: str, events: list[dict[str, Any]], notes: list[str]) -> Trial:
    run_dir, first = folder / hardest.TRIALS / key, events[0]
    spool = Spool(run_dir)
    summary, results = _summary(run_dir, notes), [e for e in events if e["event"] == "result"]
    point, donor = first["point"], first["donor"]
    curves = spool.curves()
    curves.setdefault(MIOU, tuple((e["step"], e["miou"]) for e in results))
    best = max(results, key=lambda e: e["miou"], default=None)
    state, why = _ending(events, summary)
    trial = Trial(
        key=key,
        point=point,
        state=state,
        why=why or spool.tags.get("stopped", ""),
        miou=best["miou"] if best else None,
        last=results[-1]["miou"] if results else None,
        step=results[-1]["step"] if results else 0,
        latency_ms=best.get("figures", {}).get("latency_ms") if best else None,
        curves=curves,
        donor=donor["key"] if donor else None,
        further=bool(first.get("final")) and "seed" in point,
    )
    if summary is not None:
        trial = trial._replace(
            miou=summary.best_miou,
            last=summary.miou,
            step=summary.step,
            parameters=summary.parameters or None,
            latency_ms=summary.latency_ms or None,
        )
    train, began = config_of(run_dir).get("train", {}), _began(events)
    trial = trial._replace(steps=train.get("steps"), boundary=_at_best(curves, trial.miou))
    return trial._replace(costs=_costs(trial, summary, train.get("batch", 0), began))


def _ending(events: list[dict[str, Any]], summary: Summary | None) -> tuple[State, str]:
    """Say how a trial ended, and why as its journal has it; one that is tried again is not over."""
    over: dict[str, Any] | None = None
    for event in events:
        over = event if event["event"] == "end" else None if event["event"] == "retry" else over
    if over is not None:
        return over["outcome"], over.get("reason", "")
    return ("finished" if summary.status == "finished" else "stopped", "") if summary is not None else ("runs", "")


def _began(events: list[dict[str, Any]]) -> int:
    """Give the step that the trial began with: 0, or that of the commit it went on from."""
    donor = events[0]["donor"]
    return next((e["step"] for e in events if e["event"] == "adopt"), donor["step"] if donor else 0)


def _costs(trial: Trial, summary: Summary | None, batch: int, began: int) -> Costs:
    samples = max(trial.step - began, 0) * batch
    spared = max((trial.steps or 0) - trial.step, 0) if trial.state == "stopped" else 0
    if summary is None:
        return Costs(samples=samples, spared_steps=spared)
    spent = summary.goodput
    return Costs(spent.get("wall_s", summary.seconds), spent.get("training_s"), samples, spared)


def _at_best(curves: Mapping[str, Curve], miou: float | None) -> float | None:
    """Give the boundary score of the evaluation with the best mIoU."""
    scores, points = dict(curves.get(BOUNDARY, ())), curves.get(MIOU, ())
    return next((scores.get(step) for step, value in points if value == miou), None)


def _known(fields: Mapping[str, Any]) -> Trial:
    curve = tuple(sorted((int(step), miou) for step, miou in fields["curve"].items()))
    return Trial(
        key=f"known {fields['number']}",
        point=fields["point"],
        state="known",
        why=f"known from {fields['run']}",
        miou=fields["figures"]["miou"],
        last=curve[-1][1],
        step=curve[-1][0],
        latency_ms=fields["figures"].get("latency_ms"),
        curves={MIOU: curve},
    )


def _summary(run_dir: Path, notes: list[str]) -> Summary | None:
    try:
        return review.read_summary(run_dir)
    except CheckpointError as error:
        notes.append(f"left out: {error}")
        return None


def config_of(run_dir: Path) -> dict[str, Any]:
    """Read what a run or a sweep wrote down as its config, nothing where it has none yet."""
    return told(run_dir, "config.json")


def told(run_dir: Path, name: str) -> dict[str, Any]:
    """Read a file that a run's tracker wrote; nothing where there is none that can be read."""
    try:
        found = json.loads((run_dir / "tracking" / name).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Spool:
    """What a run's spool holds of the run itself: points, tags, inputs and times; its attempts' lines are not read."""

    def __init__(self, run_dir: Path) -> None:
        self.points: dict[str, dict[int, float]] = {}
        self.tags: dict[str, str] = {}
        self.datasets: list[dict[str, Any]] = []
        self.status = ""
        self.times_ms: tuple[int, int] | None = None
        for content in self._lines(run_dir):
            self._take(content)

    @staticmethod
    def _lines(run_dir: Path) -> Iterator[dict[str, Any]]:
        for line in read_lines(run_dir):
            if line.content is not None and "attempt" not in line.content:
                yield line.content

    def _take(self, content: Mapping[str, Any]) -> None:
        time = content["t"]
        self.times_ms = (self.times_ms[0] if self.times_ms else time, time)
        match content["kind"]:
            case "metrics":
                for name, value in content["values"].items():
                    self.points.setdefault(name, {}).setdefault(content["step"], value)
            case "tag":
                self.tags[content["name"]] = content["value"]
            case "inputs":
                self.datasets = content["datasets"]
            case "status":
                self.status = content["status"]

    def curves(self) -> dict[str, Curve]:
        """Give the curves that a report draws, by the names of their metrics."""
        return {name: tuple(sorted(self.points[name].items())) for name in CURVES if name in self.points}

"""The page of `--plan`: what a sweep will take, in lines; and what of it is kept for the sweep that follows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from rayseg.schema import Value
from rayseg.sweep.costs import Costs, Measured
from rayseg.sweep.play import Forecast
from rayseg.sweep.trial import Trial, describe
from rayseg.train.pace import Pace
from rayseg.train.progress import duration


class Site(NamedTuple):
    """Where a sweep would run: `concurrent` trials at once, each on `workers` with so many cores and GPUs."""

    concurrent: int
    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    nodes: int
    free_mib: float


class Spent(NamedTuple):
    """What the plan itself took: `before_s` until the probe began (a sweep takes that too), and the probe."""

    before_s: float
    probe_s: float


class Kept(Value):
    """What a plan leaves for the sweep: the prediction, and the paces by the trials' keys."""

    wall_s: float
    steps: float
    boot_s: float
    paces: dict[str, Pace]

    def costs_of(self, trials: Sequence[Trial]) -> list[Measured]:
        """Give the paces of those of `trials` that were measured."""
        return [Measured(t, self.paces[t.key]) for t in trials if t.key in self.paces]


def wall_s(found: Forecast, spent: Spent) -> float:
    """Give the time from the command to the ranking."""
    return spent.before_s + found.wall_s


def page(found: Forecast, costs: Costs, site: Site, *, spent: Spent, price: float | None, now: datetime) -> list[str]:
    """Write the page."""
    whole_s = wall_s(found, spent)
    rows = [
        ("trials", _trials(found)),
        ("rungs", _rungs(found)),
        ("measured", f"{len(costs.measured)} trials in {spent.probe_s:.0f} s, under the sweep's own load:"),
        *(("", _measured(m)) for m in costs.measured),
        ("steps", _steps(found)),
        ("samples/s", _samples(found, costs)),
        ("memory", _memory(costs, site)),
        ("compute", _compute(found, site)),
        ("wall", _wall(found, spent, site)),
        ("cost", _cost(whole_s, site, price)),
        ("finish", f"{now + timedelta(seconds=whole_s):%Y-%m-%d %H:%M} if it starts now"),
    ]
    return [f"  {name:10} {text}" for name, text in rows if text]


def _trials(found: Forecast) -> str:
    said = f"{found.trials:.0f}" if found.exact else f"{found.trials:.0f} expected"
    stops = sum(found.stopped.values())
    return said + (f", of which {found.trials - stops:.0f} go on to their end" if stops else ", each to its end")


def _rungs(found: Forecast) -> str:
    if not found.stopped:
        return "none: no trial is stopped early"
    stops = ", ".join(f"{count:.1f} at step {step}" for step, count in found.stopped.items())
    return f"stopped on average: {stops} (the search's own rule, played with scores by chance)"


def _measured(m: Measured) -> str:
    batch, p = m.trial.config.train.batch, m.pace
    return (
        f"{describe(m.trial.point)}: {1e3 * p.step_s:.0f} ms a step, {batch / p.step_s:.1f} samples/s, "
        f"{1e3 * p.image_s:.0f} ms an image, {p.peak_mib / 1024:.2f} GiB"
    )


def _steps(found: Forecast) -> str:
    if found.exact:
        return f"{found.steps:.0f}"
    low, high = found.steps_range
    return f"{found.steps:.0f} expected, {low:.0f} to {high:.0f} in eight sweeps of ten"


def _samples(found: Forecast, costs: Costs) -> str:
    paces = [m.trial.config.train.batch / m.pace.step_s for m in costs.measured]
    batch = sum(m.trial.config.train.batch for m in costs.measured) / len(costs.measured)
    span = f"{min(paces):.1f} to {max(paces):.1f}" if len(paces) > 1 else f"{paces[0]:.1f}"
    return f"{span} a trial while it trains; {found.steps * batch / found.wall_s:.1f} over the whole sweep"


def _memory(costs: Costs, site: Site) -> str:
    peak = max(m.pace.peak_mib for m in costs.measured)
    if site.gpus_per_worker:
        return f"{peak / 1024:.2f} GiB of the GPU at most, a worker"
    all_mib = peak * site.workers * site.concurrent / site.nodes
    short = ": too little" if all_mib > site.free_mib else ""
    together = f"{all_mib / 1024:.1f} GiB together, {site.free_mib / 1024:.1f} GiB free here{short}"
    return f"{peak / 1024:.2f} GiB a worker at most (its process), {together}"


def _compute(found: Forecast, site: Site) -> str:
    hours = found.busy_s / 3600
    unit, each = ("GPU", site.gpus_per_worker) if site.gpus_per_worker else ("core", float(site.cpus_per_worker))
    return f"{hours:.2f} trial hours, {hours * each * site.workers:.2f} {unit} hours"


def _wall(found: Forecast, spent: Spent, site: Site) -> str:
    whole = duration(wall_s(found, spent))
    low, high = (duration(spent.before_s + s) for s in found.wall_range_s)
    span = "" if found.exact else f", {low} to {high} in eight sweeps of ten"
    hours = f" ({wall_s(found, spent) / 3600:.2f} h)" if wall_s(found, spent) > 1800 else ""
    return (
        f"{whole}{hours}{span}, {site.concurrent} trials at a time (of it {duration(spent.before_s)} before the first)"
    )


def _cost(whole_s: float, site: Site, price: float | None) -> str:
    if price is None:
        return "add --price PER_HOUR"
    count, unit = (
        (site.concurrent * site.workers * site.gpus_per_worker, "GPU") if site.gpus_per_worker else (site.nodes, "node")
    )
    return f"{whole_s / 3600 * count * price:.2f} ({count:g} {unit}{'s' if count > 1 else ''} at {price:g} an hour)"

"""`--plan`: probe a sweep, say on one page what it will take, and keep that for the sweep, which is held to it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from rayseg.cluster import home
from rayseg.cluster.connect import cluster_resources, ray_session
from rayseg.cluster.probing import load_of, probe
from rayseg.cluster.watch import Resources, room_for
from rayseg.errors import RaysegError
from rayseg.schema import parse, to_dict
from rayseg.sweep import plan as pages
from rayseg.sweep.costs import Costs
from rayseg.sweep.foresight import Foresight, Predicted
from rayseg.sweep.options import Options
from rayseg.sweep.plan import Kept, Site, Spent
from rayseg.sweep.play import Waiting, foresee
from rayseg.sweep.search import Search
from rayseg.sweep.space import draw
from rayseg.sweep.trial import Sweep, Trial, built

if TYPE_CHECKING:
    from rayseg.cluster.driver import Plan

Show = Callable[[str], None]
DRAWN = 32
"""Of a search that chooses as it goes, so many points are drawn to measure some of them."""


def show_plan(sweep: Sweep, options: Options, *, price: float | None, show: Show) -> None:
    """Probe and show the page; no trial is run, and nothing is kept but the page's figures.

    Raises:
        UsageError, DataError, ClusterError: as the sweep itself would.
        TrainingError: not one of the trials that were measured could be run here.
    """
    from rayseg.cluster.driver import planned

    began = time.monotonic()
    plan = planned(sweep, options, show)
    show(f"plan of {sweep.name} {options.preset} ({plan.algorithm}): {plan.preset.about}")
    built(plan.made, plan.num_classes)
    trials = stand_ins(plan)
    load = load_of(plan.val_set)
    with ray_session(dashboard=trials[0].config.train.workers > 1):
        total = cluster_resources()
        resources = room_for(trials[0].config, total, options.concurrent)
        before_s = time.monotonic() - began
        found = probe(trials, load, resources, show)
    costs = Costs(found.measured, load, val_images=len(plan.val_set), boot_s=found.boot_s)
    expected = foresee(plan.search, costs, slots=resources.concurrent)
    spent = Spent(before_s, found.took_s)
    free_mib = psutil.virtual_memory().available / 2**20
    site = Site(**resources._asdict(), nodes=nodes_of(total), free_mib=free_mib)
    for line in pages.page(expected, costs, site, spent=spent, price=price, now=datetime.now()):
        show(line)
    paces = {m.trial.key: m.pace for m in found.measured}
    kept = Kept(wall_s=pages.wall_s(expected, spent), steps=expected.steps, boot_s=found.boot_s, paces=paces)
    place = _place(sweep, options, resources)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    home.write_private(place, json.dumps(to_dict(kept)))


def stand_ins(plan: Plan) -> list[Trial]:
    """List the sweep's trials, or of a search that chooses as it goes, trials that it might choose."""
    base = plan.base
    if plan.made:
        return plan.to_run() or plan.made
    points = draw(base.space, DRAWN, base.seed, base.rows)
    return [base.trial(number, point) for number, point in enumerate(points, start=1)]


def nodes_of(total: Mapping[str, float]) -> int:
    """Count a cluster's nodes."""
    return max(1, sum(name.startswith("node:") and name != "node:__internal_head__" for name in total))


def _place(sweep: Sweep, options: Options, resources: Resources) -> Path:
    """Say where the figures of a plan lie: the same sweep, asked for alike and with the same room, finds them."""
    asked = options.model_dump(mode="json", exclude={"name", "resume", "concurrent"})
    digest = hashlib.sha256(json.dumps([sweep.name, asked, resources], sort_keys=True).encode()).hexdigest()
    return home.root() / "plans" / f"{sweep.name}-{options.preset}-{digest[:12]}.json"


class Planner(NamedTuple):
    """Makes what foresees a sweep, once it is known where it runs; `began` is when the command did."""

    sweep: Sweep
    options: Options
    plan: Plan
    began: float

    def foresight(self, search: Search, resources: Resources, waiting: Sequence[Waiting]) -> Foresight:
        """Begin to foresee; a plan that was made for this very sweep is what it is held to.

        `waiting` are the trials that an earlier attempt left open.
        """
        load = load_of(self.plan.val_set)
        kept = None if self.options.resume else _kept(_place(self.sweep, self.options, resources))
        measured = kept.costs_of(stand_ins(self.plan)) if kept else []
        planned = None
        if kept and measured:
            costs = Costs(measured, load, val_images=len(self.plan.val_set), boot_s=kept.boot_s)
            planned = (costs, Predicted(kept.wall_s, kept.steps, "by --plan"))
        return Foresight(search, load, slots=resources.concurrent, planned=planned, waiting=waiting, began=self.began)


def _kept(place: Path) -> Kept | None:
    """Read what a plan left; None where there is none that can be read."""
    try:
        return parse(Kept, json.loads(place.read_text()), place)
    except (OSError, ValueError, RaysegError):
        return None

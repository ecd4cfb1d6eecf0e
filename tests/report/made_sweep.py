"""A sweep's folder, made of what its writers write: journal, spools, configs, summaries, tables and finals."""

import csv
import json
from contextlib import closing
from pathlib import Path

from rayseg import config as configs
from rayseg import recipe
from rayseg.schema import to_dict
from rayseg.sweep.journal import Journal
from rayseg.tracking.spool import SpoolTracker
from rayseg.train.review import Summary

RECIPE = "gald/scenes"
SPACE = {
    "head.kernel_size": {"kind": "choice", "values": [3, 5, 7]},
    "head.dilation": {"kind": "choice", "values": [1, 2]},
    "optim.lr": {"kind": "uniform", "low": 1e-3, "high": 1e-1, "log": True},
}
POINTS = [
    {"head.kernel_size": k, "head.dilation": r, "optim.lr": lr}
    for (k, r), lr in zip(
        [(k, r) for k in (3, 5, 7) for r in (1, 2)], (0.002, 0.05, 0.01, 0.004, 0.09, 0.03), strict=True
    )
]


def score(number: int) -> float:
    """A trial's best mIoU: different ones, in no order."""
    return 0.2 + (number * 37 % 101) / 250


def config(point, recipe_name=RECIPE, **more):
    run = recipe.load(recipe_name).run
    return configs.from_dict(configs.merged(run, {"data.shards": "/shards/scenes", **point, **more}))


class Made:
    """Writes trials one after another into `folder`."""

    def __init__(self, folder: Path, *, about="a made sweep", space=None, objectives=None, recipe_name=RECIPE, keys=()):
        self.folder, self.count, self.recipe = folder, 0, recipe_name
        options = {"preset": "made", "settings": {}, "search": {}, "objectives": objectives}
        self.tell("plan", {"options": options, "sweep": "made", "keys": list(keys)})
        self.tracker = SpoolTracker(folder)
        space = SPACE if space is None else space
        self.tracker.config({"about": about, "recipe": recipe_name, "dataset": "scenes", "space": space})

    def tell(self, event, fields):
        with closing(Journal(self.folder)) as journal:
            journal.write(event, fields)

    def trial(self, point, *, key=None, outcome="finished", miou=None, steps=20, reason="", **fields):
        """Write one trial with two evaluations, the second its best; `outcome` None leaves it running."""
        self.count += 1
        key, miou = key or f"k{self.count:07d}", score(self.count) if miou is None else miou
        read = {name: value for name, value in point.items() if name.replace(".", "").isidentifier()}
        made = config(read, self.recipe, **{"train.steps": 40, "train.batch": 4})
        suggested = {"key": key, "point": point, "donor": None}
        self.tell("suggest", suggested | {n: fields[n] for n in ("donor", "note", "final") if n in fields})
        run = SpoolTracker(self.folder / "trials" / key)
        run.config(to_dict(made))
        for step, value in ((steps // 2, miou / 2), (steps, miou)) if fields.get("evaluated", True) else ():
            figures = {"step": step, "miou": value, "loss": 1 - value, "latency_ms": 7.5}
            self.tell("result", {"key": key, "step": step, "miou": value, "figures": figures})
            run.metrics({"val/miou": value, "train/loss": 1 - value, "val/boundary_f1_3px": value / 3}, step)
        if outcome is not None:
            self.tell("end", {"key": key, "outcome": outcome, "reason": reason})
        if outcome in ("finished", "stopped"):
            self.summary(key, miou, steps, outcome, fields.get("parameters", 1_000_000 + self.count))
        return key

    def summary(self, key, miou, steps, status, parameters):
        goodput = {"wall_s": 100.0 + self.count, "training_s": 60.0}
        said = {"step": steps, "miou": miou, "best_miou": miou, "best_step": steps, "latency_ms": 7.5, "seconds": 90.0}
        summary = Summary(**said, parameters=parameters, status=status, samples_per_s=1.0, goodput=goodput)
        (self.folder / "trials" / key / "summary.json").write_text(json.dumps(to_dict(summary)))

    def classes(self, key, ious):
        place = self.folder / "trials" / key / "review"
        place.mkdir(exist_ok=True)
        with (place / "per_class.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["class", "iou"], *ious.items()])

    def finals(self, verdict, finalists, pairs, images=24):
        plain = {"images": images, "seeds_varied": True, "verdict": verdict}
        plain["finalists"] = [
            {"key": key, "trials": [key], "seeds": list(range(len(miou))), "miou": miou, "mean": sum(miou) / len(miou)}
            | {"spread": 0.01 if len(miou) > 1 else None}
            for key, miou in finalists.items()
        ]
        names = ("best", "other", "difference", "low", "high", "level")
        plain["pairs"] = [dict(zip(names, pair, strict=True)) for pair in pairs]
        (self.folder / "finals.json").write_text(json.dumps(plain))

    def over(self):
        self.tracker.close("FINISHED")
        return self.folder


def whole(folder: Path, **options) -> Path:
    """Six finished trials."""
    made = Made(folder, **options)
    for point in POINTS:
        made.trial(point)
    return made.over()

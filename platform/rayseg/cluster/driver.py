"""A sweep from its definition to its ranking: what `jobs/*_sweep.py` calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rayseg import recipe
from rayseg.cluster import champion, finals, home, pictures, ranking, standing
from rayseg.cluster.attempt import Attempt, Sweeping, run_attempt
from rayseg.cluster.planning import Planner
from rayseg.cluster.recall import opened, recalled
from rayseg.cluster.watch import holding
from rayseg.data.reader import ShardSet
from rayseg.errors import CheckpointError
from rayseg.schema import to_dict
from rayseg.sweep import memory, searches, table
from rayseg.sweep.finals import is_further
from rayseg.sweep.journal import Story, tell
from rayseg.sweep.memory import Remembered
from rayseg.sweep.options import Options, under
from rayseg.sweep.search import Search
from rayseg.sweep.trial import Algorithm, Base, Built, Preset, Sweep, Trial, base_of, built, trials, unread
from rayseg.tracking import Tracker
from rayseg.tracking.mlflow_tracker import identity_for, open_tracker, replay, review_url, unsynced
from rayseg.train import attempts, inputs

Show = Callable[[str], None]


class Plan(NamedTuple):
    """A sweep as it is to run: its search, and the trials of one that knows them before it starts."""

    preset: Preset
    algorithm: Algorithm
    search: Search
    made: list[Trial]
    base: Base
    train_set: ShardSet
    val_set: ShardSet
    data: str
    known: list[Remembered]

    @property
    def card(self) -> str:
        """Name the card of the data set."""
        return self.val_set.card.name

    @property
    def num_classes(self) -> int:
        """Count its classes."""
        return self.val_set.num_classes

    def to_run(self) -> list[Trial]:
        """List the trials that are known before the sweep starts, and not known from an earlier one."""
        known = {each.known.trial.key for each in self.known}
        return [trial for trial in self.made if trial.key not in known]


def run_sweep(sweep: Sweep, options: Options, *, show: Show = print) -> list[table.Row]:
    """Run a sweep, or go on with one, and leave its ranking.

    Raises:
        UsageError, DataError, CheckpointError, ClusterError: before any trial starts.
        KeyboardInterrupt: it was paused; its trials are committed.
    """
    began = time.monotonic()
    folder, story = _folder(sweep, options)
    options = options.resumed(story) if story else options
    plan = planned(sweep, options, show, story=story)
    if story and [t.key for t in plan.made] != story.plan.get("keys", []):
        raise CheckpointError(
            "its trials are not the ones this version draws", folder, "go on with the version that began it"
        )
    show(f"sweep {folder.name}: {plan.preset.about}")
    if changed := options.changed():
        show(f"changed: {changed}")
    if plan.preset.seeds is not None:
        show(f"then finals: the best {plan.preset.top} with {plan.preset.seeds} seeds each, their own included")
    if plan.made:
        show_proof(built(plan.made, plan.num_classes), show)
    with holding(folder):
        return _run(sweep, options, plan, folder, story, began, show)


def planned(sweep: Sweep, options: Options, show: Show, *, story: Story | None = None) -> Plan:
    """Make the search that these options ask for, or that the journal tells of; nothing is written.

    Raises:
        UsageError: the space, the algorithm or a config does not hold.
        DataError: the shards are not those of the card.
        ClusterError: earlier runs are to be read, and no tracking server answers.
    """
    preset = under(sweep, options)
    shards = home.shards_of(options.dataset or recipe.load(preset.recipe).dataset, options.shards, show)
    algorithm, count = preset.algorithm, options.trials or preset.trials
    chosen: Mapping[str, Any] = {"shards": shards, "settings": options.settings, "search": options.search}
    base = base_of(preset, **chosen)
    made = trials(preset, algorithm=algorithm, count=count, **chosen) if algorithm in searches.BEFOREHAND else []
    data = (made[0].config if made else base.trial(0, {}).config).data
    train_set, val_set, digest = opened(data, options.dataset)
    known = recalled(made, base, digest, asked=options.warm_start, story=story)
    if options.warm_start:
        show(f"{len(known)} points are known from earlier sweeps, and not run again")
    search = searches.make(
        preset,
        algorithm=algorithm,
        trials=made,
        base=base,
        count=count,
        num_classes=val_set.num_classes,
        known=[each.known for each in known],
    )
    return Plan(preset, algorithm, search, made, base, train_set, val_set, digest, known)


def _run(
    sweep: Sweep, options: Options, plan: Plan, folder: Path, story: Story | None, began: float, show: Show
) -> list[table.Row]:
    uri = home.tracking_uri()
    if uri is None:
        show("MLflow is not up: everything is kept beside the runs, and `rayseg up` brings it there")
    tags = {"rayseg.kind": "sweep", "preset": options.preset}
    parent = identity_for(folder, folder.name, f"{sweep.name}-{plan.card}", tags)
    tracker = open_tracker(folder, parent, uri)
    tracker.config(_shown(options, plan))
    standing.begin(tracker, resumed=story is not None)
    inputs.tell(tracker, plan.train_set, plan.val_set)
    plain = options.model_dump(mode="json", exclude={"resume", "name"})
    told: dict[str, Any] = {"options": plain, "sweep": sweep.name, "keys": [t.key for t in plan.made]}
    told["picture"] = sweep.picture
    told |= {"known": memory.plain(plan.known)} if plan.known else {}
    planner = Planner(sweep, options, plan, began)
    sweeping = Sweeping(folder, parent, uri, told, plan.num_classes, options.concurrent, planner, tracker)
    try:
        attempt = run_attempt(sweeping, plan.search, plan.to_run(), story, show=show)
    except BaseException as error:
        tracker.tag("stopped", "paused" if isinstance(error, KeyboardInterrupt) else attempts.in_words(error))
        tracker.close("KILLED")
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"go on with --resume --name {folder.name}") from None
        raise
    return _finish(sweep, attempt, sweeping, tracker, show)


def _shown(options: Options, plan: Plan) -> dict[str, Any]:
    """Give what of the sweep is worth a column in MLflow; what its algorithm reads nothing of is not."""
    preset, algorithm = plan.preset, plan.algorithm
    chosen = {"algorithm": algorithm, "settings": preset.settings | options.settings}
    counted = len(plan.made) or options.trials or preset.trials
    plain = to_dict(preset.model_copy(update=chosen | {"trials": counted})) | {"dataset": plan.card}
    ignored = unread(algorithm) | ({"top", "seeds"} if preset.seeds is None else set())
    return {name: value for name, value in plain.items() if name not in ignored}


def _finish(sweep: Sweep, attempt: Attempt, sweeping: Sweeping, tracker: Tracker, show: Show) -> list[table.Row]:
    plan = sweeping.planner.plan
    attempt.choosing().choose()
    rows = _rows(attempt, plan, show)
    suggestions = attempt.search.suggestions
    points = [row for row in rows if row.run or not is_further(suggestions[row.trial.key])]
    ranking.publish(sweep, points, sweeping.folder, tracker, objectives=plan.preset.objectives, show=show)
    pictures.publish(attempt, rows, tracker, show)
    for line in attempt.search.search.closing():
        show(line)
    judged = finals.judge(attempt, rows, show)
    if judged is not None:
        champion.propose(attempt, judged, tracker)
    if attempt.foresight is not None:
        show(attempt.foresight.verdict())
    tracker.tag("stopped", standing.ended(attempt.search))
    tracker.close("FINISHED" if rows and rows[0].summary else "FAILED")
    if sweeping.uri:
        reports = [replay(folder, sweeping.uri) for folder in unsynced(sweeping.folder)]
        if behind := [report.error for report in reports if report.error]:
            show(f"warning: MLflow does not have all of it yet ({behind[0]}); `rayseg up` brings the rest")
    if judged is not None and judged.winner:
        champion.register(sweeping, show)
    if sweeping.uri:
        show(f"review it at {review_url(sweeping.uri, experiment=sweeping.parent.experiment)}")
    ranking.refuse_empty(rows, sweeping.folder)
    return points


def _rows(attempt: Attempt, plan: Plan, show: Show) -> list[table.Row]:
    """Close every trial, and rank them with those that earlier sweeps ran; what was run again counts as it ran here."""
    search = attempt.search
    run = [
        table.Row(trial, ranking.close(attempt.job_of(trial), search.outcomes[trial.key], show))
        for trial in attempt.trials()
    ]
    known = [
        table.Row(r.known.trial, memory.summary(r.known, plan.num_classes), r.run)
        for r in plan.known
        if r.known.trial.key not in search.suggestions
    ]
    return table.ranked([*run, *known])


def show_proof(proof: list[Built], show: Show) -> None:
    """Show that no two trials are alike, a line a trial."""
    models = {b.fingerprint for b in proof}
    show(f"{len(proof)} trials, {len(models)} different models, no two trials alike:")
    for b in proof:
        show(b.line())


def _folder(sweep: Sweep, options: Options) -> tuple[Path, Story | None]:
    root = home.runs()
    if not options.resume:
        name = options.name or f"{sweep.name}-{options.preset}-{datetime.now():%Y%m%d-%H%M%S}"
        folder = home.run_path(name)
        if (folder / "journal.jsonl").exists():
            raise CheckpointError(f"a sweep called {name} exists", folder, "add --resume, or choose another --name")
        return folder, None
    names = [options.name] if options.name else [p.name for p in sorted(root.glob(f"{sweep.name}-{options.preset}-*"))]
    for name in reversed(names):
        folder = home.run_path(name)
        if (story := tell(folder)) is not None:
            return folder, story
    raise CheckpointError("no sweep to resume", root, "run it without --resume first")

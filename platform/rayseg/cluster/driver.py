"""A sweep from its definition to its ranking: what `jobs/*_sweep.py` calls."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from rayseg import figures, recipe
from rayseg.cluster import home
from rayseg.cluster.connect import cluster_resources, ray_session
from rayseg.cluster.launch import Job
from rayseg.cluster.watch import Resources, Watch, Work, holding, left_to_run, room_for
from rayseg.data.reader import open_shards
from rayseg.errors import CheckpointError, ClusterError, RaysegError, TrainingError, UsageError
from rayseg.schema import Value, to_dict
from rayseg.sweep import table
from rayseg.sweep.asha import Asha
from rayseg.sweep.journal import Journal, Outcome, Story, tell
from rayseg.sweep.lines import Lines
from rayseg.sweep.trial import Algorithm, Built, Preset, Sweep, Trial, built, describe, trials
from rayseg.tracking import Tracker
from rayseg.tracking.mlflow_tracker import RunIdentity, identity_for, open_tracker, replay, review_url, unsynced
from rayseg.train import commit, review

Show = Callable[[str], None]


class Options(Value):
    """What the user chose on the command line; None leaves it to the preset."""

    preset: str = "demo"
    dataset: str | None = None
    shards: str | None = None
    algorithm: Algorithm | None = None
    trials: int | None = None
    settings: dict[str, Any] = {}
    name: str | None = None
    resume: bool = False
    concurrent: int | None = None


def run_sweep(sweep: Sweep, options: Options, *, show: Show = print) -> list[table.Row]:
    """Run a sweep, or go on with one, and leave its ranking.

    Raises:
        UsageError, DataError, CheckpointError, ClusterError: before any trial starts.
    """
    folder, story = _folder(sweep, options)
    options = _resumed(options, story) if story else options
    preset = sweep.preset(options.preset)
    shards = home.shards_of(options.dataset or recipe.load(preset.recipe).dataset, options.shards, show)
    made = trials(
        preset,
        algorithm=options.algorithm or preset.algorithm,
        count=options.trials or preset.trials,
        shards=shards,
        settings=options.settings,
    )
    if story and [t.key for t in made] != story.plan["keys"]:
        raise CheckpointError(
            "its trials are not the ones this version draws", folder, "go on with the version that began it"
        )
    show(f"sweep {folder.name}: {preset.about}")
    data = made[0].config.data
    card = open_shards(shards, data.val_split, data.remote).card
    home.check_card(options.dataset, card.name)
    _show_proof(built(made, card.num_classes), show)
    with holding(folder):
        return _run(sweep, options, preset, card.name, made, folder, story, show)


def _resumed(options: Options, story: Story) -> Options:
    """Take the sweep's own options; where its shards lie now, and how much runs at once, may change."""
    before = Options(**story.plan["options"])
    for field in ("dataset", "algorithm", "trials", "settings"):
        given, was = getattr(options, field), getattr(before, field)
        if given and given != was:
            raise UsageError(f"{field} = {given} at a resume, the sweep has {was}", "--resume", "leave it out")
    free = {"shards": options.shards or before.shards, "concurrent": options.concurrent or before.concurrent}
    return before.model_copy(update={"resume": True, **free})


def _run(
    sweep: Sweep,
    options: Options,
    preset: Preset,
    card: str,
    made: list[Trial],
    folder: Path,
    story: Story | None,
    show: Show,
) -> list[table.Row]:
    uri = home.tracking_uri()
    if uri is None:
        show("MLflow is not up: everything is kept beside the runs, and `rayseg up` brings it there")
    tags = {"rayseg.kind": "sweep", "preset": options.preset}
    parent = identity_for(folder, folder.name, f"{sweep.name}-{card}", tags)
    tracker = open_tracker(folder, parent, uri)
    algorithm = options.algorithm or preset.algorithm
    chosen = {"algorithm": algorithm, "settings": preset.settings | options.settings}
    unread = {"trials", "grace_steps", "reduction_factor"} if algorithm == "grid" else set()
    plain = to_dict(preset.model_copy(update=chosen | {"trials": len(made)})) | {"dataset": card}
    tracker.config({name: value for name, value in plain.items() if name not in unread})
    try:
        with ray_session(dashboard=made[0].config.train.workers > 1):
            resources = room_for(made[0].config, cluster_resources(), options.concurrent)
            work = [Work(t, _job(t, folder, parent, uri, resources)) for t in made]
            todo = left_to_run(work, story)
            journal = _opened(folder, sweep, options, work, todo if story else None)
            if story:
                show(f"resuming: {len(work) - len(todo)} of {len(work)} trials are over, {len(todo)} to go")
            if todo:
                from rayseg.cluster.tune import run_trials

                show(
                    f"running {len(todo)} trials, {resources.concurrent} at a time, {resources.workers} worker(s) each"
                )
                lines = Lines(made, left=_steps_left(todo), best=_best(story), show=show)
                watch = Watch(todo, journal, lines.tell)
                asha = _asha(algorithm, preset, made[0].config.train.steps, story)
                run_trials(todo, resources, watch, storage=folder / "tune", asha=asha)
    except BaseException as error:
        tracker.close("KILLED")
        if isinstance(error, KeyboardInterrupt):
            show(f"interrupted; go on with --resume --name {folder.name}")
        raise
    journal.close()
    outcomes = _outcomes(folder, work)
    rows = table.ranked(table.Row(w.trial, _close(w, outcomes.get(w.trial.key, "finished"), show)) for w in work)
    _publish(sweep, rows, folder, tracker, show)
    tracker.close("FINISHED" if rows[0].summary else "FAILED")
    if uri:
        behind = [report.error for report in (replay(d, uri) for d in unsynced(folder)) if report.error]
        if behind:
            show(f"warning: MLflow does not have all of it yet ({behind[0]}); `rayseg up` brings the rest")
        show(f"review it at {review_url(uri, experiment=parent.experiment)}")
    if rows[0].summary is None:
        raise TrainingError(
            f"all {len(rows)} trials failed", folder, "see each trial's log.txt; mend it, then --resume"
        )
    return rows


def _outcomes(folder: Path, work: list[Work]) -> dict[str, Outcome]:
    """Read how every trial ended.

    Raises:
        ClusterError: Tune gave up before all trials were over.
    """
    story = tell(folder)
    outcomes = story.outcomes if story else {}
    open_ = [w for w in left_to_run(work, story) if w.trial.key not in outcomes]
    if open_:
        raise ClusterError(f"{len(open_)} trials are not over", folder, f"go on with --resume --name {folder.name}")
    return outcomes


def _steps_left(todo: list[Work]) -> dict[str, int]:
    """Count the steps that each trial still has to do, from its newest commit's name."""
    left = {}
    for w in todo:
        done = [int(path.name.removeprefix("step-")) for path in commit.commits(Path(w.job.run_dir))[-1:]]
        left[w.trial.key] = w.trial.config.train.steps - sum(done)
    return left


def _best(story: Story | None) -> tuple[float, str] | None:
    return max(((r.miou, r.key) for r in story.results), default=None) if story else None


def _opened(folder: Path, sweep: Sweep, options: Options, work: list[Work], left: list[Work] | None) -> Journal:
    """Open the journal with the sweep's plan, or, at a resume, with what is left of it."""
    journal = Journal(folder)
    if left is None:
        plain = options.model_dump(mode="json", exclude={"resume", "name"})
        journal.write("plan", {"options": plain, "keys": [w.trial.key for w in work], "sweep": sweep.name})
    else:
        journal.write("resume", {"left": [w.trial.key for w in left]})
    return journal


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


def _job(trial: Trial, folder: Path, parent: RunIdentity, uri: str | None, resources: Resources) -> Job:
    run_dir = folder / "trials" / trial.key
    identity = RunIdentity(
        experiment=parent.experiment,
        run_key=f"{folder.name}/{trial.key}",
        run_name=f"{trial.number:03d}-{trial.key}",
        parent_key=parent.run_key,
        tags={"rayseg.kind": "trial"} | {f"searched.{k.rsplit('.', 1)[-1]}": str(v) for k, v in trial.point.items()},
    )
    return Job(
        config=to_dict(trial.config),
        run_dir=str(run_dir),
        identity=identity,
        tracking_uri=uri,
        threads=resources.cpus_per_worker,
    )


def _asha(algorithm: Algorithm, preset: Preset, steps: int, story: Story | None) -> Asha | None:
    if algorithm != "asha":
        return None
    asha = Asha(grace_steps=preset.grace_steps, max_steps=steps, reduction_factor=preset.reduction_factor)
    for result in story.results if story else ():
        asha.judge(result.key, result.step, result.miou)
    return asha


def _close(work: Work, outcome: Outcome, show: Show) -> review.Summary | None:
    """Give the trial's summary; one whose process died after it was over is closed here, from its newest commit.

    A failed trial has none, so that a resume runs it again.
    """
    run_dir = Path(work.job.run_dir)
    try:
        summary = review.read_summary(run_dir)
        if summary is None:
            tracker = open_tracker(run_dir, work.job.identity, None)
            summary = review.adopt(run_dir, tracker) if outcome != "failed" else None
            if summary is None:
                tracker.close("FAILED")
        return summary
    except RaysegError as error:
        show(f"warning: trial {work.trial.key} cannot be closed: {error}")
        return None


def _show_proof(proof: list[Built], show: Show) -> None:
    models = {b.fingerprint for b in proof}
    show(f"{len(proof)} trials, {len(models)} different models, no two trials alike:")
    for b in proof:
        built_as = f"model {b.fingerprint}  {b.parameters:,} parameters"
        show(f"  {b.trial.number:3d} {b.trial.key}  {built_as}  {describe(b.trial.point)}")


def _publish(sweep: Sweep, rows: list[table.Row], folder: Path, tracker: Tracker, show: Show) -> None:
    table.write_csv(folder / "ranking.csv", rows)
    show(table.text(rows))
    tracker.artifact(folder / "ranking.csv")
    best = rows[0].summary
    if best is None:
        show("no trial came to an evaluation")
        return
    tracker.metrics({"best_miou": best.best_miou, "trials": len(rows)}, best.best_step)
    tracker.tag("best_trial", rows[0].trial.key)
    laid_out = table.surface(rows, sweep.picture)
    if laid_out is not None:
        picture = folder / "surface.png"
        figures.heat_map(
            laid_out.best,
            [str(v) for v in laid_out.row_values],
            [str(v) for v in laid_out.column_values],
            picture,
            row_name=sweep.picture[0].rsplit(".", 1)[-1],
            column_name=sweep.picture[1].rsplit(".", 1)[-1],
            title=f"{folder.name}: best mIoU",
            value_name="mIoU",
            trials=laid_out.counts,
        )
        tracker.artifact(picture)
        show(table.surface_text(laid_out, sweep.picture))
    show(f"ranking and picture: {folder}")

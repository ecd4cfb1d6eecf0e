"""`fit`: one run from its config to its summary, under any runtime. Read it top to bottom.

It leaves out what the runtime does (launching, devices, who is told), what the tracker does (the network), and what an
update, a commit, a fault and a hung rank take: `update`, `writer`, `faults` and `watchdog` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from rayseg import config as configs
from rayseg import segmenter
from rayseg.config import RunConfig
from rayseg.data.reader import open_shards
from rayseg.errors import CheckpointError
from rayseg.losses import for_model
from rayseg.schema import to_dict
from rayseg.tracking import Tracker
from rayseg.train import commit, evaluate, inputs, review, start
from rayseg.train.attempts import Told
from rayseg.train.faults import Guard, RollBack, explained
from rayseg.train.feed import Feed
from rayseg.train.goodput import Goodput, account
from rayseg.train.progress import Progress
from rayseg.train.review import Summary
from rayseg.train.runtime import Runtime, alike, from_chief, holding
from rayseg.train.step import choose_precision
from rayseg.train.update import Updater, make
from rayseg.train.watchdog import Watchdog
from rayseg.train.writer import Commits, check_room

Show = Callable[[str], None]


class Attempt(NamedTuple):
    """What one attempt at a run begins with: its newest commit, where there is one, and who looks on."""

    found: commit.Commit | None
    spent: Goodput
    told: Told
    guard: Guard
    watch: Watchdog

    def evaluating(self, done: int, total: int) -> None:
        """Take in how far an evaluation is."""
        self.watch.beat(f"the evaluation, at image {done} of {total}")
        self.spent.beat()


def fit(config: RunConfig, runtime: Runtime, tracker: Tracker, *, show: Show = print) -> Summary | None:
    """Train, evaluate, commit and report until the last step; an interrupted run goes on from its newest commit.

    Every rank calls it. A finished run gives its summary at once; a paused one (Ctrl-C) gives None.

    Raises:
        CheckpointError: the run directory holds another run, is in use or full, or no commit in it is whole.
        TrainingError: the loss is not finite (`train.on_nan` says what follows), or memory is short.
    """
    say = show if runtime.rank == 0 else _silent
    guard = Guard(config.train.on_nan, say)
    with holding(runtime), explained(runtime):
        while True:
            spent = Goodput(runtime.run_dir, write=runtime.rank == 0)
            found = _newest(config, runtime, say)
            if from_chief((runtime.run_dir / review.SUMMARY).exists(), runtime.device):
                return review.read_summary(runtime.run_dir)
            watch = Watchdog(runtime, config.train.hang_s, show)
            try:
                with Told(tracker, runtime, spent) as told:
                    return _fit(config, runtime, tracker, say, Attempt(found, spent, told, guard, watch))
            except RollBack:
                continue


def _fit(config: RunConfig, runtime: Runtime, tracker: Tracker, show: Show, attempt: Attempt) -> Summary | None:
    found, spent, told, guard, watch = attempt
    told.begin(found.step if found else 0)
    data = config.data
    train_set = open_shards(data.shards, data.train_split, data.remote, bad_shard=data.bad_shard)
    val_set = open_shards(data.shards, data.val_split, data.remote)
    feed = Feed(config, runtime, train_set)
    if found is not None:
        feed.refuse_another(found)
    precision = choose_precision(config.train.precision, runtime.device)
    steps, chief = config.train.steps, runtime.rank == 0

    torch.manual_seed(config.seed)
    model = segmenter.build(config.model(train_set.num_classes))
    if config.start_from is not None and found is None:
        start.load_weights(model, config.start_from, show)
    built = {"fingerprint": segmenter.fingerprint(model), "parameters": sum(p.numel() for p in model.parameters())}
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = model.to(runtime.device)
    criterion = for_model(config.loss, model, ignore_index=train_set.ignore_index, num_classes=train_set.num_classes)
    update = make(model, criterion, config, runtime, precision)
    state = review.State() if found is None else _resumed(found, update, steps, show)
    state = state.model_copy(update=built)
    with alike(runtime):
        if chief:
            commit.tidy(runtime.run_dir, after=state.step)
            check_room(runtime.run_dir, update.tensors(), show)

    tracker.config(to_dict(config))
    tracker.tag("fingerprint", state.fingerprint)
    if chief:
        inputs.tell(tracker, train_set, val_set)
    progress = Progress(start=state.step, steps=steps, batch=config.train.batch, show=show)
    judged = config.while_training()
    values = {"loss": math.nan}
    with feed.begin(state.step, show) as batches, watch, Commits(runtime, spent, watch) as commits:
        commits.tell_again(found)
        for step, batch in zip(range(state.step + 1, steps + 1), spent.waiting(batches), strict=False):
            rate = update.set_rate(step - 1)
            losses = update(batch, step)
            sound = guard.judge(update, losses, step, rate)
            values = sound or values
            spent.did(step)
            watch.beat(f"the update after step {step}")
            while update.notes:
                show(update.notes.pop(0))

            due = step % config.train.eval_every == 0 or step == steps
            commits.finish() if due else commits.poll()  # whoever may end the run hears of the last evaluation first
            wanted = runtime.stop()
            if wanted == "end":
                break
            if due or step % config.train.log_every == 0:
                criterion.check()
                pace = {"lr": rate, "samples_per_s": progress.samples_per_s(step), **feed.skipped()}
                tracker.metrics({f"train/{name}": v for name, v in ((sound or {}) | pace).items()}, step)
                if not due:
                    progress.say(step, {"loss": values["loss"], "lr": rate, **state.shown()})
            if due:
                with spent.during("evaluation"):
                    result = evaluate.evaluate(
                        update.judged, val_set, runtime, config=judged, precision=precision, progress=attempt.evaluating
                    )
                metrics = result.metrics(val_set.class_names)
                state = state.after(step, metrics, progress.seconds())
                if chief:
                    tracker.metrics({f"val/{name}": value for name, value in metrics.items()}, step)
                report = {"step": step, "loss": values["loss"], "best_miou": state.best_miou, **metrics}
                commits.begin(state, update.tensors(), feed.state(step), result=result, report=report)
                watch.beat(f"the update after step {step}")
                progress.say(step, {"loss": values["loss"], "lr": rate, **state.shown()})
            elif wanted == "pause" or step % (config.train.commit_every or steps) == 0:
                criterion.check()
                state = state.at(step, progress.seconds())
                commits.begin(state, update.tensors(), feed.state(step))
            if wanted == "pause" and step < steps:
                commits.finish()
                told.end("paused", f"paused at step {step} of {steps}")
                show(f"paused at step {step}/{steps}, committed in {runtime.run_dir}")
                return None

    summary = review.summarise(state, steps=steps, batch=config.train.batch)
    if chief:
        with spent.during("closing"):
            review.publish(runtime.run_dir, tracker)
        told.end("over", review.why(runtime.run_dir, summary))
        summary = review.close(runtime.run_dir, summary, tracker)
        for line in account(runtime.run_dir).lines():
            show(line)
    return summary


def _newest(config: RunConfig, runtime: Runtime, show: Show) -> commit.Commit | None:
    """Find the commit to go on from; rank 0 looks, and checks its bytes, for all."""
    found = None
    with alike(runtime):
        if runtime.rank == 0 and (found := commit.newest(runtime.run_dir, warn=show)) is not None:
            _refuse_another(config, found)
    at = from_chief(found.step if found else 0, runtime.device)
    return found or (commit.read(commit.path_of(runtime.run_dir, at)) if at else None)


def _refuse_another(config: RunConfig, found: commit.Commit) -> None:
    there = configs.identity(configs.from_dict(found.state["config"], found.path))
    here = configs.identity(config)
    if changed := sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name)):
        name = changed[0]
        raise CheckpointError(
            f"the run there has {name} = {there.get(name)!r}, this one {here.get(name)!r}"
            + (f", and {len(changed) - 1} more differ" if len(changed) > 1 else ""),
            found.path.parents[1],
            "give it the same config, or choose another run directory",
        )


def _resumed(found: commit.Commit, update: Updater, steps: int, show: Show) -> review.State:
    update.load(found)
    show(f"resuming at step {found.step}/{steps} from {found.path}")
    return review.State(**found.state["progress"])


def _silent(_: str) -> None:
    """Ranks other than 0 say nothing."""

"""`fit`: one run from its config to its summary, under any runtime. Read it top to bottom.

It leaves out what the runtime does (launching, devices, who is told) and what the tracker does (the network).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rayseg import config as configs
from rayseg import optim, segmenter
from rayseg.config import RunConfig
from rayseg.data.reader import open_shards
from rayseg.errors import CheckpointError, TrainingError
from rayseg.losses import for_model
from rayseg.schema import to_dict
from rayseg.tracking import Tracker
from rayseg.train import commit, evaluate, review, start
from rayseg.train.feed import Feed
from rayseg.train.progress import Progress
from rayseg.train.review import Summary
from rayseg.train.runtime import Runtime, from_chief, holding
from rayseg.train.step import choose_precision, sync_batch_norm
from rayseg.train.update import Parts, Updater


def fit(
    config: RunConfig, runtime: Runtime, tracker: Tracker, *, show: Callable[[str], None] = print
) -> Summary | None:
    """Train, evaluate, commit and report until the last step; an interrupted run goes on from its newest commit.

    Every rank calls it. A finished run gives its summary at once; a paused one (Ctrl-C) gives None.

    Raises:
        CheckpointError: the run directory holds another run, is in use, or no commit in it is whole.
        TrainingError: the loss is not finite, or memory is short.
    """
    with holding(runtime):
        found = commit.newest(runtime.run_dir, warn=show) if runtime.rank == 0 else None
        at = from_chief(found.step if found else 0, runtime.device)
        found = commit.read(commit.path_of(runtime.run_dir, at)) if at else None
        if found is not None:
            _refuse_another(config, found)
        if from_chief((runtime.run_dir / review.SUMMARY).exists(), runtime.device):
            return review.read_summary(runtime.run_dir)
        try:
            return _fit(config, runtime, tracker, show if runtime.rank == 0 else _silent, found)
        except torch.OutOfMemoryError as error:
            what = f"out of memory: {str(error).splitlines()[0]}"
            raise TrainingError(what, runtime.run_dir, "lower train.batch or augment.crop_px") from None


def _fit(
    config: RunConfig, runtime: Runtime, tracker: Tracker, show: Callable[[str], None], found: commit.Commit | None
) -> Summary | None:
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
    optimizer = optim.build(config.optim, model.backbone, model)
    net: nn.Module = sync_batch_norm(model.train(), world=runtime.world, device=runtime.device)
    if config.train.freeze_norm:
        start.freeze_norm(net)
    if runtime.world > 1:
        net = DistributedDataParallel(net, device_ids=[runtime.device] if runtime.device.type == "cuda" else None)
    update = Updater(Parts(net, model, criterion, optimizer), config, runtime, precision)
    state = review.State() if found is None else _resumed(found, update, steps, show)
    state = state.model_copy(update=built)

    tracker.config(to_dict(config))
    tracker.tag("fingerprint", state.fingerprint)
    progress = Progress(start=state.step, steps=steps, batch=config.train.batch, show=show)
    judged = config.while_training()
    with feed.begin(state.step, show) as batches:
        for step, batch in zip(range(state.step + 1, steps + 1), batches, strict=False):
            rate = update.set_rate(step - 1)
            losses = update(batch, step)
            due = step % config.train.eval_every == 0 or step == steps
            if due or step % config.train.log_every == 0:
                criterion.check()
                values = _finite({name: float(value) for name, value in losses.items()}, step)
                pace = {"lr": rate, "samples_per_s": progress.samples_per_s(step), **feed.skipped()}
                tracker.metrics({f"train/{name}": v for name, v in (values | pace).items()}, step)
                if not due:
                    progress.say(step, {"loss": values["loss"], "lr": rate, **state.shown()})
            if due:
                result = evaluate.evaluate(update.judged, val_set, runtime, config=judged, precision=precision)
                metrics = result.metrics(val_set.class_names)
                state = state.after(step, metrics, progress.seconds())
                if chief:
                    tracker.metrics({f"val/{name}": value for name, value in metrics.items()}, step)
                    _commit(feed.state(step), runtime, update, state, result)
                progress.say(step, {"loss": values["loss"], "lr": rate, **state.shown()})
                runtime.report({"step": step, "loss": values["loss"], "best_miou": state.best_miou, **metrics})
            if runtime.stop() == "pause" and step < steps:
                criterion.check()
                _finite({"loss": float(losses["loss"])}, step)
                if chief:
                    _commit(feed.state(step), runtime, update, state.at(step, progress.seconds()), None)
                    show(f"paused at step {step}/{steps}, committed in {runtime.run_dir}")
                return None
            if runtime.stop() == "end":
                break

    summary = review.summarise(state, steps=steps, batch=config.train.batch)
    if chief:
        review.close(runtime.run_dir, summary, tracker)
    return summary


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


def _resumed(found: commit.Commit, update: Updater, steps: int, show: Callable[[str], None]) -> review.State:
    update.load(found)
    show(f"resuming at step {found.step}/{steps} from {found.path}")
    return review.State(**found.state["progress"])


def _commit(
    of_run: dict[str, Any],
    runtime: Runtime,
    update: Updater,
    state: review.State,
    result: evaluate.Evaluation | None,
) -> None:
    whole = {**of_run, "progress": state.model_dump()}
    files = {}
    if result is not None:
        files[review.EVALUATION] = evaluate.to_bytes(result)
    commit.write(runtime.run_dir, state.step, update.tensors(), whole, files)
    commit.prune(runtime.run_dir, best=state.best_step)


def _finite(values: dict[str, float], step: int) -> dict[str, float]:
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(f"{name} is {value}", f"step {step}", "lower optim.lr, or set train.precision=fp32")
    return values


def _silent(_: str) -> None:
    """Ranks other than 0 say nothing."""

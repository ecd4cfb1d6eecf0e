"""One attempt at a sweep: its search and journal brought together, run on Ray until it is done or interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rayseg.cluster import standing
from rayseg.cluster.choosing import Choosing
from rayseg.cluster.connect import cluster_resources, ray_session
from rayseg.cluster.launch import Job
from rayseg.cluster.planning import Planner, stand_ins
from rayseg.cluster.watch import Resources, Watch, room_for, step_of
from rayseg.errors import ClusterError
from rayseg.schema import to_dict
from rayseg.sweep import memory
from rayseg.sweep.board import Event
from rayseg.sweep.finals import is_further
from rayseg.sweep.foresight import Foresight
from rayseg.sweep.journal import Journal, Story
from rayseg.sweep.live import Tell, telling
from rayseg.sweep.play import Waiting
from rayseg.sweep.recorded import Recorded
from rayseg.sweep.search import Search
from rayseg.sweep.trial import Trial, built, labels
from rayseg.tracking import NullTracker, Tracker
from rayseg.tracking.mlflow_tracker import RunIdentity
from rayseg.train import commit

Show = Callable[[str], None]
PAUSE = "pause"
"""A file of this name in the sweep's folder asks its trials to commit and end."""


class Sweeping(NamedTuple):
    """What stays the same over all attempts; `plan` is what the journal says of it."""

    folder: Path
    parent: RunIdentity
    uri: str | None
    plan: dict[str, Any]
    num_classes: int
    concurrent: int | None
    planner: Planner
    tracker: Tracker = NullTracker()


class Attempt:
    """The search as far as it came, and how its trials become jobs."""

    def __init__(self, sweeping: Sweeping, search: Recorded, made: Sequence[Trial], show: Show) -> None:
        self.sweeping, self.search, self.made, self.show = sweeping, search, made, show
        self.threads = 1
        self.foresight: Foresight | None = None
        self._proved = {trial.key for trial in made} | search.suggestions.keys()

    def trials(self) -> list[Trial]:
        """List all trials that were suggested."""
        return [suggestion.trial for suggestion in self.search.suggestions.values()]

    def run_dir(self, key: str) -> Path:
        """Say where a trial's run lies."""
        return self.sweeping.folder / "trials" / key

    def job_of(self, trial: Trial) -> Job:
        """Make a trial's job; of one that was not known before the sweep began, show what is built."""
        if trial.key not in self._proved:
            self._proved.add(trial.key)
            self.show(built([trial], self.sweeping.num_classes)[0].line())
        folder, parent = self.sweeping.folder, self.sweeping.parent
        named = labels(trial.point)
        searched = {f"searched.{named[name]}": str(value) for name, value in trial.point.items()}
        identity = RunIdentity(
            experiment=parent.experiment,
            run_key=f"{folder.name}/{trial.key}",
            run_name=f"{trial.number:03d}-{trial.key}",
            parent_key=parent.run_key,
            tags={"rayseg.kind": "trial"} | searched | self._origin(trial),
        )
        return Job(
            config=to_dict(trial.config),
            run_dir=str(self.run_dir(trial.key)),
            identity=identity,
            tracking_uri=self.sweeping.uri,
            threads=self.threads,
            pause=str(folder / PAUSE),
        )

    def _origin(self, trial: Trial) -> dict[str, str]:
        """Give the tags that say where a trial comes from, and whether a later sweep may take it for its own."""
        suggestion, plan = self.search.suggestions[trial.key], self.sweeping.planner.plan
        tags = memory.tags(trial, plan.base, plan.data)
        if suggestion.donor is not None:  # what went on from other weights is no result of its point alone
            tags = {"donor": f"{suggestion.donor.key}@{suggestion.donor.step}"}
        elif is_further(suggestion):  # nor is another seed a point of the same family
            tags = {name: tags[name] for name in (memory.DATA, memory.CONFIG)}
        tags |= {"finals": "true", "finalist": suggestion.final} if suggestion.final else {}
        return tags | ({"began": suggestion.note} if suggestion.note else {})

    def choosing(self, concurrent: int = 1) -> Choosing:
        """Give what chooses the images that all trials are shown on."""
        plan = self.sweeping.planner.plan
        count = plan.base.trial(0, {}).config.train.shown_images
        return Choosing(self.sweeping.folder, self.search, plan.val_set, count=count, concurrent=concurrent)

    def left(self) -> dict[str, int]:
        """Count the steps that each trial known by now still has to do, from its newest commit's name."""
        left = {}
        for trial in {t.key: t for t in [*self.made, *self.trials()]}.values():
            if trial.key not in self.search.outcomes:
                done = [step_of(path) for path in commit.commits(self.run_dir(trial.key))[-1:]]
                left[trial.key] = trial.config.train.steps - sum(done)
        return left


def run_attempt(
    sweeping: Sweeping, search: Search, made: Sequence[Trial], story: Story | None, *, show: Show
) -> Attempt:
    """Run a sweep, or what an earlier attempt left of it, to its end.

    Raises:
        CheckpointError: the search does not suggest what it suggested before.
        ClusterError: not even one trial fits the cluster, or Tune gave up.
        KeyboardInterrupt: it was interrupted; running trials are committed.
    """
    with closing(Journal(sweeping.folder)) as journal:
        recorded = Recorded(search, journal)
        if story is None or story.plan["options"].get("seeds") != sweeping.plan["options"].get("seeds"):
            journal.write("plan", sweeping.plan)  # again where finals are newly asked for: the last one stands
        if story is not None:
            recorded.resume(story)
        attempt = Attempt(sweeping, recorded, made, show)
        if story is not None:
            over, known = len(recorded.outcomes), max(len(made), len(recorded.suggestions))
            show(f"resuming: {over} of {known} trials are over, {known - over} to go")
        if not recorded.exhausted():
            _run(attempt, story)
        return attempt


def _run(attempt: Attempt, story: Story | None) -> None:
    first = stand_ins(attempt.sweeping.planner.plan)[0].config
    with ray_session(dashboard=first.train.workers > 1):
        from rayseg.cluster.tune import run_trials

        resources = room_for(first, cluster_resources(), attempt.sweeping.concurrent)
        attempt.threads = resources.cpus_per_worker
        with _telling(attempt, resources, story) as shown:
            tell = standing.following(shown, attempt.search, attempt.sweeping.tracker, story)
            tell = attempt.choosing(resources.concurrent).following(tell)
            for known, _, run in attempt.sweeping.planner.plan.known:
                tell(Event("known", known.trial, {"miou": known.figures["miou"], "reason": run}))
            watch = Watch(attempt.search, attempt.job_of, tell, pause=_pause(attempt))
            watch.catch_up()
            with _pausing(watch, attempt.show):
                run_trials(watch, resources, storage=attempt.sweeping.folder / "tune")
            for waiting in attempt.search.open() if watch.pause.wanted else ():
                tell(Event("paused", waiting.trial, {}))
        if watch.pause.wanted:
            raise KeyboardInterrupt
    if open_ := attempt.search.open():
        folder = attempt.sweeping.folder
        raise ClusterError(f"{len(open_)} trials are not over", folder, f"go on with --resume --name {folder.name}")


def _pause(attempt: Attempt) -> Path:
    return attempt.sweeping.folder / PAUSE


def _telling(attempt: Attempt, resources: Resources, story: Story | None) -> AbstractContextManager[Tell]:
    """Make what hears of every event: a live table on a terminal, else lines."""
    left, made = attempt.left(), attempt.made
    many = f"{len(left)} trials" if made else "trials as the search names them"
    known_before = bool(made) and attempt.sweeping.planner.plan.preset.seeds is None
    attempt.show(f"running {many}, {resources.concurrent} at a time, {resources.workers} worker(s) each")
    best = max(((r.miou, r.key) for r in story.results), default=None) if story else None
    waiting = [Waiting(s.trial, s.trial.config.train.steps - left[s.trial.key]) for s in attempt.search.open()]
    foresight = attempt.sweeping.planner.foresight(attempt.search.search, resources, waiting)
    attempt.foresight = foresight
    return telling(
        list({trial.key: trial for trial in [*made, *attempt.trials()]}.values()),
        left=left,
        best=best,
        show=attempt.show,
        title=attempt.sweeping.folder.name,
        total=(len(made) if known_before else len(attempt.search.outcomes) + foresight.trials())
        + len(attempt.sweeping.planner.plan.known),
        foresight=foresight,
    )


@contextmanager
def _pausing(watch: Watch, show: Show) -> Iterator[None]:
    """Ctrl-C or SIGTERM once: what runs commits and ends in order. Twice: end now, and go on from the last commits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pause(number: int, frame: object) -> None:
        signal.signal(number, signal.default_int_handler)
        watch.pause.wanted = "pause"
        show("pausing: what runs commits and ends; once more ends at once")

    before = {number: signal.signal(number, pause) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

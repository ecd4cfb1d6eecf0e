"""What a sweep's own run shows at the tracker: the code it was made by, its best trial so far, and how it ended."""

from __future__ import annotations

from collections import Counter

from rayseg.sweep.board import Event
from rayseg.sweep.journal import Story
from rayseg.sweep.live import Tell
from rayseg.sweep.recorded import Recorded
from rayseg.tracking import Tracker, code

BEST = "best_miou"


def begin(tracker: Tracker, *, resumed: bool) -> None:
    """Tag the sweep's run with its code; one that was over is none any more."""
    for name, value in code.tags().items():
        tracker.tag(name, value)
    if resumed:
        tracker.tag("stopped", "no: it goes on")


def following(tell: Tell, search: Recorded, tracker: Tracker, story: Story | None) -> Tell:
    """Pass events on, and write the best mIoU down whenever it rises, over the updates that all trials did so far."""
    best = max((result.miou for result in story.results), default=-1.0) if story else -1.0

    def both(event: Event) -> None:
        nonlocal best
        tell(event)
        if event.kind == "result" and event.figures["miou"] > best:
            best = event.figures["miou"]
            tracker.metrics({BEST: best}, updates(search))

    return both


def updates(search: Recorded) -> int:
    """Count the updates that a sweep's trials did, as far as they told; what one has from its donor counts once."""
    begun = {key: each.donor.step if each.donor else 0 for key, each in search.suggestions.items()}
    return sum(max(step - begun.get(key, 0), 0) for key, step in search.heard.items())


def ended(search: Recorded) -> str:
    """Say in words how a sweep's trials ended: `finished: 12 trials, of which 5 were stopped and 1 failed`."""
    counts = Counter(search.outcomes.values())
    many = len(search.outcomes)
    parts = [f"{n} {'was' if n == 1 else 'were'} stopped" for n in (counts["stopped"],) if n]
    parts += [f"{n} failed" for n in (counts["failed"],) if n]
    said = f"finished: {many} trial{'s' * (many != 1)}"
    return f"{said}, of which {' and '.join(parts)}" if parts else said

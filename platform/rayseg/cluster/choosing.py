"""When a sweep's hardest images are chosen: by its driver, as soon as enough of its trials are over, and once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, final

from rayseg.data.reader import ShardSet
from rayseg.errors import CheckpointError, RaysegError
from rayseg.metrics import PerImage
from rayseg.sweep.board import Event
from rayseg.sweep.live import Tell
from rayseg.sweep.recorded import Recorded
from rayseg.train import commit, evaluate, hardest, review
from rayseg.train.evaluate import Evaluation

FEWEST = 2
"""So many trials are over when the images are chosen, or as many as run at once where that is more."""


class Best(NamedTuple):
    """A run's best evaluation, and the commit that it lies in."""

    commit: Path
    seen: Evaluation


@final
class Choosing:
    """Chooses `count` images of `val_set` for the sweep in `folder`, from the first of its trials that ended in order.

    What was chosen stands, over all resumes.
    """

    def __init__(self, folder: Path, search: Recorded, val_set: ShardSet, *, count: int, concurrent: int = 1) -> None:
        self._folder, self._search, self._val_set, self._count = folder, search, val_set, count
        self._enough = max(FEWEST, concurrent)

    def following(self, tell: Tell) -> Tell:
        """Pass events on, and choose once enough trials are over."""

        def both(event: Event) -> None:
            tell(event)
            if event.kind in ("finished", "stopped"):
                self.choose(at_least=self._enough)

        return both

    def choose(self, *, at_least: int = 1) -> hardest.Chosen | None:
        """Give what was chosen, or choose now if `at_least` so many trials came to an evaluation.

        A trial whose evaluation cannot be read is left out, and on a full disk nothing is chosen: a picture costs no
        sweep.
        """
        if not self._count:
            return None
        with suppress(CheckpointError):  # a damaged choice is made anew
            if (chosen := hardest.read(self._folder)) is not None:
                return chosen
        seen: list[tuple[str, PerImage]] = []
        for key in (key for key, outcome in self._search.outcomes.items() if outcome != "failed"):
            with suppress(RaysegError):
                images = best_of(self._folder / hardest.TRIALS / key).seen.images
                seen += [(key, images)] if len(images.hits) else []
            if len(seen) == self._enough:
                break
        if len(seen) < at_least:
            return None
        with suppress(OSError):
            return hardest.write(self._folder, seen, self._val_set, self._count)
        return None


def best_of(run_dir: Path) -> Best:
    """Read a run's best evaluation; where it is damaged, that of the next best commit.

    Raises:
        CheckpointError: there is none that is whole.
    """
    with suppress(CheckpointError):
        if (summary := review.read_summary(run_dir)) is not None:
            path = commit.path_of(run_dir, summary.best_step)
            return Best(path, evaluate.from_bytes(path / review.EVALUATION))
    path = review.best_commit(run_dir).path
    return Best(path, evaluate.from_bytes(path / review.EVALUATION))

"""Runs the best trials again, each with further seeds, once a search is over: what a winner is named from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from rayseg.errors import UsageError
from rayseg.sweep.journal import Outcome
from rayseg.sweep.maker import Maker
from rayseg.sweep.preset import Preset
from rayseg.sweep.search import Donor, Figures, Next, Search, Suggestion
from rayseg.sweep.space import Point
from rayseg.sweep.trial import Trial


@final
class Finals:
    """A search, and after it its `top` best points by their best mIoU: each runs to its end, and with `seeds` seeds.

    A trial that ran to its end counts as the first seed; one that was stopped goes on to its end first, and a `known`
    one (by its key: an earlier sweep ran it to this best mIoU) is run here. `standing` are the settings of a point that
    is the sweep's own run: what a ladder's cheaper rungs run is no candidate.

    `groups` has for each finalist, by the key of its first trial, the trials of all its seeds.
    """

    def __init__(
        self,
        search: Search,
        maker: Maker,
        *,
        top: int,
        seeds: int,
        known: Mapping[str, tuple[Trial, float]],
        standing: Mapping[str, Any],
    ) -> None:
        self.search, self.maker, self.top, self.seeds = search, maker, top, seeds
        self.groups: dict[str, list[str]] = {}
        self._names, self._standing, self._known = _names(maker), dict(standing), dict(known)
        self._points: dict[str, Point] = {}
        self._first: dict[str, str] = {}
        self._last: dict[str, Donor] = {}
        self._best: dict[str, float] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._left: list[Suggestion] | None = None

    def suggest(self) -> Next:
        """Ask the search; when it is done and all its trials are over, name the finalists' further runs."""
        if self._left is None:
            answer = self.search.suggest()
            if isinstance(answer, Suggestion):
                self._enter(answer)
            if answer != "done":
                return answer
            if len(self._outcomes) < len(self._first):
                return "wait"
            self._left = [run for first in self._finalists() for run in self._runs(first)]
        return self._left.pop(0) if self._left else "done"

    def _enter(self, suggestion: Suggestion) -> None:
        """Note a trial of the search; one that goes on from another is the same candidate as that one."""
        trial, donor = suggestion.trial, suggestion.donor
        first = self._first[trial.key] = self._first[donor.key] if donor else trial.key
        self._points.setdefault(first, trial.point)

    def _finalists(self) -> list[str]:
        """Name the best candidates by the keys of their first trials; of equals the one that began first."""
        scores = {key: miou for key, (_, miou) in self._known.items()}
        scores |= {key: self._best[key] for key in self._points if self._stands(key)}
        return sorted(scores, key=lambda key: -scores[key])[: self.top]

    def _stands(self, first: str) -> bool:
        """Say whether a candidate is a run of the sweep's own config that came to an evaluation and did not fail."""
        more = {name: value for name, value in self._points[first].items() if name not in self._names}
        sound = any(of == first and self._outcomes[key] != "failed" for key, of in self._first.items())
        return sound and first in self._best and more == self._standing

    def _runs(self, first: str) -> list[Suggestion]:
        """List what a finalist still has to run."""
        whole = [key for key, of in self._first.items() if of == first and self._outcomes[key] == "finished"]
        runs = [] if whole else [self._to_the_end(first)]
        self.groups[first] = [whole[-1] if whole else runs[0].trial.key]
        point = self._points[first] if first in self._points else self._known[first][0].point
        for number in range(1, self.seeds):
            trial = self.maker.seeded(point, self.maker.base.seed + number)
            self.groups[first].append(trial.key)
            note = f"finals: run {number + 1} of {self.seeds} of {first}"
            runs.append(Suggestion(trial, None, note, first))
        return runs

    def _to_the_end(self, first: str) -> Suggestion:
        if first not in self._points:
            return Suggestion(self._known[first][0], None, "finals: known from an earlier sweep, and run here", first)
        donor = self._last[first]
        trial = self.maker.onward(donor, self._points[first])
        return Suggestion(trial, donor, f"finals: stopped trial {first} goes on to its end", first)

    def report(self, key: str, figures: Figures) -> str | None:
        """Pass an evaluation on; in the finals nobody is stopped."""
        if key not in self._first:
            return None
        first = self._first[key]
        self._last[first] = Donor(key, int(figures["step"]))
        self._best[first] = max(figures["miou"], self._best.get(first, -1.0))
        return self.search.report(key, figures)

    def ended(self, key: str, outcome: Outcome) -> None:
        """Pass an end on."""
        if key in self._first:
            self._outcomes[key] = outcome
            self.search.ended(key, outcome)

    def closing(self) -> list[str]:
        """Give what the search itself found."""
        return self.search.closing()


def _names(maker: Maker) -> set[str]:
    """Name everything that is searched."""
    return {*maker.base.space, *(name for row in maker.base.rows for name in row)}


def check(maker: Maker, preset: Preset, points: int) -> None:
    """Refuse finals that cannot be, before anything starts; `points` says how many trials there may be.

    Raises:
        UsageError: trials begin with each other's weights, the seed is searched, or there are too few trials.
    """
    assert preset.seeds is not None
    if preset.algorithm == "ladder" and not preset.fresh:
        what = "a trial goes on from a lower rung's weights, which no other seed has"
        raise UsageError(what, "--seeds with a ladder", "drop it, or start each rung afresh: fresh=true")
    if "seed" in _names(maker):
        raise UsageError("the seed itself is searched", "--seeds", "drop it, or search something else")
    if points < preset.top:
        raise UsageError(f"finals of {preset.top} with {points} trials", "--top", "lower it, or run more trials")
    maker.config({"seed": maker.base.seed + preset.seeds - 1})


def is_further(suggestion: Suggestion) -> bool:
    """Say whether a trial is a finalist's further seed: no point of the search, and not in its ranking."""
    return bool(suggestion.final) and "seed" in suggestion.trial.point

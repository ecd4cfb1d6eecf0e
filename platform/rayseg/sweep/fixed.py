"""A search over trials that are all known before the first one starts: a grid, or random draws; ASHA or none stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from rayseg.sweep.asha import Rule
from rayseg.sweep.journal import Outcome
from rayseg.sweep.search import Figures, Next, Suggestion
from rayseg.sweep.trial import Trial


@final
class Fixed:
    """Starts the trials in their order; `rule` stops the worse ones early."""

    def __init__(self, trials: Sequence[Trial], rule: Rule | None = None) -> None:
        self.trials = tuple(trials)
        self.rule = rule
        self._started = 0

    def suggest(self) -> Next:
        """Name the next one in order."""
        if self._started == len(self.trials):
            return "done"
        trial = self.trials[self._started]
        self._started += 1
        if self.rule is not None:
            self.rule.enter(trial.key)
        return Suggestion(trial)

    def report(self, key: str, figures: Figures) -> str | None:
        """Ask the rule."""
        verdict = self.rule.judge(key, int(figures["step"]), figures["miou"]) if self.rule is not None else None
        return None if verdict is None else str(verdict)

    def ended(self, key: str, outcome: Outcome) -> None:
        """Nothing hangs on how a trial ends."""

    def closing(self) -> list[str]:
        """Nothing beyond the ranking."""
        return []

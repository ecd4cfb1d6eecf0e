"""A search whose every question and answer is in the journal before it takes effect, and that comes back from there.

After the driver was killed a new search is told the journal, event by event. It must then suggest what it suggested
before: what decides differently now (another version, another space) is refused, not guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, final

from rayseg.errors import CheckpointError
from rayseg.sweep.journal import Journal, Outcome, Story
from rayseg.sweep.search import Donor, Figures, Next, Search, Suggestion
from rayseg.sweep.trial import describe


@final
class Recorded:
    """Stands between a search and what runs its trials.

    `suggestions` holds all so far by key, `outcomes` how those ended that are over, `heard` the last step of each whose
    figures the search has, `stops` why it gave a trial up.
    """

    def __init__(self, search: Search, journal: Journal) -> None:
        self.search, self.journal = search, journal
        self.suggestions: dict[str, Suggestion] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.heard: dict[str, int] = {}
        self.stops: dict[str, str] = {}
        self.adopted: set[str] = set()
        self._retried: set[str] = set()
        self._again: list[str] = []

    def open(self) -> list[Suggestion]:
        """List what was suggested and is not over, in that order."""
        return [suggestion for key, suggestion in self.suggestions.items() if key not in self.outcomes]

    def suggest(self) -> Next:
        """Name the trial to start next: one of an earlier attempt that is not over, or a new one."""
        while self._again:
            if (key := self._again.pop(0)) not in self.outcomes:
                return self.suggestions[key]
        answer = self.search.suggest()
        if isinstance(answer, Suggestion):
            self._enter(answer)
            self.journal.write("suggest", _plain(answer))
        return answer

    def exhausted(self) -> bool:
        """Say whether nothing is left to run; asks the search, and keeps its answer for `suggest`."""
        if not self.open() and isinstance(answer := self.suggest(), Suggestion):
            self._again.append(answer.trial.key)
        return not self.open()

    def adopt(self, key: str, donor: str, step: int) -> None:
        """Write down which commit of its donor a trial begins with: the one it names, or, where gone, the newest."""
        self.journal.write("adopt", {"key": key, "donor": donor, "step": step})
        self._adopt(key, step)

    def report(self, key: str, figures: Figures) -> str | None:
        """Take in an evaluation, once: a trial that went on from a commit may come to the same step again."""
        step = int(figures["step"])
        if step > self.heard.get(key, 0):
            self.journal.write("result", {"key": key, "step": step, "miou": figures["miou"], "figures": dict(figures)})
            if (reason := self._hear(key, figures)) is not None:
                self.journal.write("stop", {"key": key, "reason": reason})
        return self.stops.get(key)

    def end(self, key: str, *, failed: bool, reason: str = "") -> Outcome:
        """Take in that a trial is over, and say how it counts."""
        outcome: Outcome = "failed" if failed else "stopped" if key in self.stops else "finished"
        reason = reason or self.stops.get(key, "")
        self.journal.write("end", {"key": key, "outcome": outcome, "reason": reason})
        self._end(key, outcome)
        return outcome

    def _enter(self, suggestion: Suggestion) -> None:
        key = suggestion.trial.key
        assert key not in self.suggestions, f"{key} is suggested twice"
        self.suggestions[key] = suggestion

    def _adopt(self, key: str, step: int) -> None:
        self.adopted.add(key)
        self.heard[key] = max(step, self.heard.get(key, 0))

    def _hear(self, key: str, figures: Figures) -> str | None:
        self.heard[key] = int(figures["step"])
        if key in self._retried:
            return None
        if (reason := self.search.report(key, figures)) is not None:
            self.stops[key] = reason
        return reason

    def _end(self, key: str, outcome: Outcome) -> None:
        self.outcomes[key] = outcome
        if key not in self._retried:
            self.search.ended(key, outcome)

    # --- coming back ------------------------------------------------------------------------------------------------

    def resume(self, story: Story) -> None:
        """Bring the search to where the journal ends; what was not over starts again, and what failed is tried again.

        Raises:
            CheckpointError: the search suggests something else now, or stops another trial; the first is named.
        """
        stopped = self._replay(story)
        self.journal.write("resume", {"left": [s.trial.key for s in self.open()]})
        for key in [key for key in self.stops if key not in stopped]:  # the kill came between report and verdict
            self.journal.write("stop", {"key": key, "reason": self.stops[key]})
        for key in [key for key, outcome in self.outcomes.items() if outcome == "failed"]:
            self.journal.write("retry", {"key": key})
            self._retry(key)
        self._again = [s.trial.key for s in self.open()]

    def _replay(self, story: Story) -> set[str]:
        stopped: set[str] = set()
        for number, event in enumerate(story.events, start=1):
            where = f"{self.journal.path}, line {number}"
            key = event.get("key", "")
            match event["event"]:
                case "suggest":
                    self._enter(_same(self.search.suggest(), event, where))
                case "adopt":
                    self._adopt(key, event["step"])
                case "result":
                    if "figures" not in event:  # version 0.1.0
                        raise _differs("its results have no figures", where)
                    self._hear(key, event["figures"])
                case "stop":
                    stopped.add(key)
                    if key not in self.stops:
                        raise _differs(f"it stopped trial {key}, and now lets it go on", where)
                case "end":
                    self._end(key, event["outcome"])
                case "retry":
                    self._retry(key)
        return stopped

    def _retry(self, key: str) -> None:
        del self.outcomes[key]
        self._retried.add(key)
        self.stops.pop(key, None)


def _plain(suggestion: Suggestion) -> dict[str, Any]:
    trial, donor = suggestion.trial, suggestion.donor
    fields = {"key": trial.key, "point": trial.point, "donor": donor._asdict() if donor else None}
    more = {"note": suggestion.note, "final": suggestion.final}
    return fields | {name: text for name, text in more.items() if text}


def _same(answer: Next, event: Mapping[str, Any], where: str) -> Suggestion:
    """Check that a search suggests what it suggested before."""
    was = {name: event[name] for name in ("key", "point", "donor")}
    if isinstance(answer, Suggestion):
        now = json.loads(json.dumps(_plain(answer)))
        if all(now[name] == value for name, value in was.items()):
            return answer
    now_said = _said(answer.trial.point, answer.donor) if isinstance(answer, Suggestion) else f"says '{answer}'"
    donor = Donor(**was["donor"]) if was["donor"] else None
    raise _differs(f"it suggested {_said(was['point'], donor)}, and now {now_said}", where)


def _said(point: Mapping[str, Any], donor: Donor | None) -> str:
    return describe(point) + (f" from {donor.key} at step {donor.step}" if donor else "")


def _differs(what: str, where: str) -> CheckpointError:
    return CheckpointError(f"the search decides differently: {what}", where, "go on with the version that began it")

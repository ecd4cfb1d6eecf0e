"""A recorded search comes back from its journal as it was, wherever the journal was cut off."""

import itertools
import json

import pytest

from rayseg import config as configs
from rayseg.errors import CheckpointError
from rayseg.sweep.journal import Journal, tell
from rayseg.sweep.recorded import Recorded
from rayseg.sweep.search import Donor, Suggestion
from rayseg.sweep.trial import Trial

CONFIG = configs.from_dict(
    {
        "data": {"shards": "/s"},
        "head": {"name": "fcn"},
        "augment": {"crop_px": [48, 48]},
        "train": {"steps": 6, "batch": 4, "eval_every": 2},
    }
)


class Climbing:
    """Each point hangs on all that was told before; a trial under the best at its second report is stopped."""

    def __init__(self, trials=6, salt=0):
        self.left, self.told, self.salt = trials, [], salt
        self.best, self.reports = -1.0, {}

    def suggest(self):
        if not self.left:
            return "done"
        self.left -= 1
        number = len(self.reports) + 1
        value = hash((self.salt, number, *self.told)) % 1000 / 1000
        trial = Trial(number, f"t{number}", {"optim.lr": value}, CONFIG)
        self.reports[trial.key] = 0
        donor = Donor("t1", 2) if number == 4 else None
        return Suggestion(trial, donor)

    def report(self, key, figures):
        self.told.append((key, figures["step"], figures["miou"]))
        self.reports[key] += 1
        under = figures["miou"] < self.best
        self.best = max(self.best, figures["miou"])
        return "under the best" if under and self.reports[key] == 2 else None

    def ended(self, key, outcome):
        self.told.append((key, outcome))

    def closing(self):
        return []


class Killed(BaseException):
    """The driver dies."""


class Mortal(Journal):
    """Dies before or after its n-th line is on disk."""

    def __init__(self, folder, lives=10**6, *, after=False):
        super().__init__(folder)
        self.lives, self.after = lives, after

    def write(self, event, fields):
        self.lives -= 1
        if self.lives < 0 and not self.after:
            raise Killed
        super().write(event, fields)
        if self.lives < 0:
            raise Killed


def miou(key, point, step):
    return (sum(map(ord, key)) * 37 + int(point["optim.lr"] * 1000) * 11 + step * 5) % 97 / 97


def drive(recorded):
    """Run what it suggests, one at a time, as a driver would: every trial evaluates at 2, 4 and 6."""
    while isinstance(suggestion := recorded.suggest(), Suggestion):
        trial = suggestion.trial
        if suggestion.donor and trial.key not in recorded.adopted:
            recorded.adopt(trial.key, suggestion.donor.key, suggestion.donor.step)
        for step in range(recorded.heard.get(trial.key, 0) + 2, 7, 2):
            if trial.key in recorded.stops or recorded.report(
                trial.key, {"step": step, "miou": miou(trial.key, trial.point, step)}
            ):
                break
        recorded.end(trial.key, failed=False)


@pytest.fixture
def begin():
    """Begin a sweep in a folder, or go on with the one there, as a driver does."""
    journals = []

    def begin(folder, search, **mortal):
        journals.append(journal := Mortal(folder, **mortal))
        recorded = Recorded(search, journal)
        story = tell(folder)
        if story is None:
            journal.write("plan", {"options": {}})
        else:
            recorded.resume(story)
        return recorded

    yield begin
    for journal in journals:
        journal.close()


def sequence(folder):
    """What the search saw, in order, without what attempts add."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] not in ("plan", "resume")]


def test_killed_at_any_line_and_resumed_it_sees_and_decides_the_same(begin, tmp_path):
    drive(begin(tmp_path / "whole", Climbing()))
    whole = sequence(tmp_path / "whole")
    assert {line["event"] for line in whole} == {"suggest", "adopt", "result", "stop", "end"}
    for lives, after in itertools.product(range(1, len(whole) + 1), (False, True)):
        folder = tmp_path / f"{lives}{after}"
        with pytest.raises(Killed):
            drive(begin(folder, Climbing(), lives=lives, after=after))
        drive(begin(folder, Climbing()))
        assert sequence(folder) == whole, (lives, after)


def test_killed_again_and_again_it_comes_to_the_same_end(begin, tmp_path):
    drive(begin(tmp_path / "whole", Climbing()))
    folder = tmp_path / "killed"
    for _ in range(200):
        try:
            drive(begin(folder, Climbing(), lives=3))
        except Killed:
            continue
        break
    assert sequence(folder) == sequence(tmp_path / "whole")


def test_a_torn_last_line_is_told_again(begin, tmp_path):
    drive(begin(tmp_path / "whole", Climbing()))
    whole = (tmp_path / "whole" / "journal.jsonl").read_bytes()
    for cut in range(len(whole) // 3, len(whole), 37):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(whole[:cut])
        drive(begin(folder, Climbing()))
        assert sequence(folder) == sequence(tmp_path / "whole")


def test_a_search_that_suggests_something_else_is_refused_with_both_said(begin, tmp_path):
    drive(begin(tmp_path, Climbing()))
    said = r"it suggested lr=\S+, and now lr=\S+ \(.*journal.jsonl, line 2\): go on with the version that began it"
    with pytest.raises(CheckpointError, match=said):
        begin(tmp_path, Climbing(salt=1))
    with pytest.raises(CheckpointError, match="now says 'done'"):
        begin(tmp_path, Climbing(trials=2))


def test_a_verdict_that_is_gone_is_refused(begin, tmp_path):
    drive(begin(tmp_path, Climbing()))

    class Mild(Climbing):
        def report(self, key, figures):
            super().report(key, figures)

    with pytest.raises(CheckpointError, match="it stopped trial t"):
        begin(tmp_path, Mild())


def test_a_donors_step_that_differs_is_refused(begin, tmp_path):
    drive(begin(tmp_path, Climbing()))
    path = tmp_path / "journal.jsonl"
    path.write_text(path.read_text().replace('"donor": {"key": "t1", "step": 2}', '"donor": {"key": "t1", "step": 4}'))
    with pytest.raises(CheckpointError, match=r"from t1 at step 4, and now .* from t1 at step 2"):
        begin(tmp_path, Climbing())


def test_the_same_step_is_told_once(begin, tmp_path):
    recorded = begin(tmp_path, Climbing())
    recorded.suggest()
    for _ in range(3):
        recorded.report("t1", {"step": 2, "miou": 0.5})
    assert recorded.search.told == [("t1", 2, 0.5)]
    assert [line["event"] for line in sequence(tmp_path)] == ["suggest", "result"]


def test_what_failed_is_tried_again_without_the_search_hearing_of_it_twice(begin, tmp_path):
    first = begin(tmp_path, Climbing())
    first.suggest()
    first.report("t1", {"step": 2, "miou": 0.5})
    first.end("t1", failed=True)
    told = list(first.search.told)
    second = begin(tmp_path, Climbing())
    assert second.suggest().trial.key == "t1"
    second.report("t1", {"step": 4, "miou": 0.6})
    assert second.end("t1", failed=False) == "finished"
    assert second.search.told == told
    third = begin(tmp_path, Climbing())
    assert third.outcomes == {"t1": "finished"}
    assert third.suggest().trial.key == "t2"


def test_asked_whether_there_is_more_it_keeps_the_answer(begin, tmp_path):
    recorded = begin(tmp_path, Climbing(trials=1))
    assert not recorded.exhausted()
    assert not recorded.exhausted()
    assert recorded.suggest().trial.key == "t1"
    recorded.end("t1", failed=False)
    assert recorded.exhausted()


def test_a_journal_of_the_first_version_is_refused(begin, tmp_path):
    journal = Journal(tmp_path)
    journal.write("plan", {"options": {}, "keys": ["t1"]})
    journal.write("result", {"key": "t1", "step": 2, "miou": 0.5})
    journal.close()
    with pytest.raises(CheckpointError, match="its results have no figures"):
        begin(tmp_path, Climbing())

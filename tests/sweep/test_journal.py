"""The journal tells what happened, also after a kill tore its last line."""

import pytest

from rayseg.errors import CheckpointError
from rayseg.sweep.journal import Journal, tell


def write(folder):
    journal = Journal(folder)
    journal.write("plan", {"keys": ["a", "b"], "options": {}})
    journal.write("result", {"key": "a", "step": 5, "miou": 0.5})
    journal.write("end", {"key": "a", "outcome": "stopped", "reason": "x"})
    journal.close()


def test_story(tmp_path):
    write(tmp_path)
    story = tell(tmp_path)
    assert story.plan["keys"] == ["a", "b"]
    assert story.results == [("a", 5, 0.5)]
    assert story.outcomes == {"a": "stopped"}


def test_no_journal_no_story(tmp_path):
    assert tell(tmp_path) is None


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_torn_line_is_dropped_and_writing_goes_on(tmp_path, cut):
    write(tmp_path)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert tell(tmp_path).outcomes == {}
    journal = Journal(tmp_path)
    journal.write("end", {"key": "b", "outcome": "finished"})
    journal.close()
    assert tell(tmp_path).outcomes == {"b": "finished"}
    assert tell(tmp_path).results == [("a", 5, 0.5)]


def test_damage_in_the_middle_is_named(tmp_path):
    write(tmp_path)
    path = tmp_path / "journal.jsonl"
    path.write_text(path.read_text().replace('"step"', "step"))
    with pytest.raises(CheckpointError, match="line 2"):
        tell(tmp_path)

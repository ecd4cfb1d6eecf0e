"""What the tests of sweeps do with one: start its job file, wait for it, read what it left."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from rayseg.sweep.journal import tell

JOB = Path(__file__).with_name("tiny_sweep.py")
PATIENCE_S = 280.0


class Sweeps:
    """Starts the tiny sweep's job file, in a home of its own."""

    def __init__(self, root, shards):
        self.root, self.shards, self.started = root, shards, []

    def __call__(self, *arguments):
        """Give its process."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "MLFLOW"))}
        environment = kept | {"RAYSEG_HOME": str(self.root / "home"), "HOME": str(self.root)}
        command = [sys.executable, str(JOB), "--shards", str(self.shards), *arguments]
        out = subprocess.PIPE
        self.started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True))
        return self.started[-1]

    def end(self):
        """Leave nothing behind."""
        for process in self.started:
            process.kill()
            process.wait()
            process.stdout.close()


def finish(process):
    """Wait for a sweep that is to come to its end; give its lines."""
    lines = process.communicate(timeout=PATIENCE_S)[0].splitlines()
    assert process.returncode == 0, "\n".join(lines)
    return lines


def folder(root, name):
    """Say where a sweep of this name lies."""
    return root / "home" / "runs" / name


def events(path, *kinds):
    """Read a sweep's journal."""
    file = path / "journal.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [event for event in map(json.loads, lines) if not kinds or event["event"] in kinds]


def ended(path):
    """Say how each trial ended that did."""
    story = tell(path)
    return dict(story.outcomes) if story else {}


def wait_for(condition, limit_s=PATIENCE_S):
    """Wait until something is so."""
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def told_once(path):
    """Check that no trial ended twice, and none told a step twice; give the suggestions in their order."""
    ends = Counter(event["key"] for event in events(path, "end"))
    results = Counter((event["key"], event["step"]) for event in events(path, "result"))
    suggested = [event["key"] for event in events(path, "suggest")]
    assert set(ends.values()) == set(results.values()) == {1}
    assert sorted(ends) == sorted(suggested)
    return [(event["key"], event["point"], event["donor"]) for event in events(path, "suggest")]

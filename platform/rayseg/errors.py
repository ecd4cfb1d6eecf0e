"""What a user did wrong, as exceptions that carry one line and an exit code.

RaysegError
├── UsageError       2  the command line or a config
├── DataError        3  a data set, a shard, an image
├── CheckpointError  4  a commit, a weights file, a run directory
├── ClusterError     5  the cluster, the tracking server, storage
└── TrainingError    6  training itself: NaN, out of memory, a hang
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class RaysegError(Exception):
    """One line `error: <what> (<where>): <fix>` and the exit code of its class."""

    exit_code = 1

    def __init__(self, what: str, where: object, fix: str) -> None:
        super().__init__(what, str(where), fix)
        self.what, self.where, self.fix = what, str(where), fix

    def __str__(self) -> str:
        return " ".join(f"{self.what} ({self.where}): {self.fix}".split())

    def fields(self) -> dict[str, str]:
        """Give it in plain types, for another process; `from_fields` makes the error anew."""
        return {"kind": type(self).__name__, "what": self.what, "where": self.where, "fix": self.fix}


class UsageError(RaysegError):
    """The command line or a config is wrong."""

    exit_code = 2


class DataError(RaysegError):
    """A data set, a shard or an image is wrong."""

    exit_code = 3


class CheckpointError(RaysegError):
    """A commit, a weights file or a run directory is wrong."""

    exit_code = 4


class ClusterError(RaysegError):
    """The cluster, the tracking server or storage is out of reach or refuses."""

    exit_code = 5


class TrainingError(RaysegError):
    """Training failed: a non-finite loss, out of memory, a hang."""

    exit_code = 6


def from_fields(fields: Mapping[str, str]) -> RaysegError:
    """Make the error that `RaysegError.fields` gave in another process; of no known kind it is a TrainingError."""
    kinds = {kind.__name__: kind for kind in RaysegError.__subclasses__()}
    return kinds.get(fields["kind"], TrainingError)(fields["what"], fields["where"], fields["fix"])


LISTED = 160
"""So many characters of valid words are listed whole."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Name the valid words, the likeliest first: `did you mean 'gald'? valid: aspp, fcn, gald`.

    Of many words only the nearest few are named, so that the error stays one line.
    """
    words = sorted(valid)
    close = difflib.get_close_matches(name, words, n=5, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    if len(listed := ", ".join(words)) <= LISTED:
        return f"{hint}valid: {listed}"
    few = close if len(close) > 1 else words[:5]
    return f"{hint}valid: {', '.join(few)}, ... ({len(words)} in all)"

#!/usr/bin/env python3
"""One run, the twin of `rayseg train`: `python jobs/train.py [--recipe gald/scenes] [--dataset CARD] [--set a.b=c]`.

On several workers: `--set train.workers=2`. The same command with `--run DIR` goes on where it was.
"""

import _environment

_environment.require()

from rayseg.cli import run, train  # noqa: E402 - only once the environment is found

if __name__ == "__main__":
    run(train)

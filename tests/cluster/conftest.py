"""A real local stack in a home of its own, for the tests that need one; a test that broke it gets it mended."""

import os
import shutil
import socket
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from sweeping import Sweeps

from rayseg.cluster import stack as stacks
from rayseg.cluster.starting import PORTS

PROBE = '''#!/usr/bin/env python3
"""Says where it runs; with a number, exits with it."""
import json, os, sys, psutil, ray

def listening():
    return [c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]

@ray.remote
def worker():
    return {"cwd": os.getcwd(), "python": sys.executable, "listening": listening()}

if len(sys.argv) > 1:
    print("leaving with", sys.argv[1])
    sys.exit(int(sys.argv[1]))
ray.init(log_to_driver=False, logging_level="ERROR")
found = {"cwd": os.getcwd(), "python": sys.executable, "listening": listening(), "worker": ray.get(worker.remote())}
names = ("RAYSEG_HOME", "RAYSEG_TRACKING_URI", "RAY_AUTH_TOKEN")
print("found", json.dumps(found | {name: os.environ.get(name) for name in names}))
'''
PATIENT = '''#!/usr/bin/env python3
"""Runs until it is stopped, then takes a moment to close, and needs the tracking server for that."""
import os, signal, sys, time
from pathlib import Path
from urllib.request import urlopen

def close(number, frame):
    time.sleep(2)
    with urlopen(os.environ["RAYSEG_TRACKING_URI"] + "/health") as answer:
        Path(sys.argv[1]).write_text("closed" if answer.status == 200 else "cut off")
    sys.exit(0)

signal.signal(signal.SIGTERM, close)
print("started", flush=True)
time.sleep(600)
'''


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A repository's root with two jobs and things that must not leave the machine."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "pyproject.toml").write_text('[project]\nname = "rayseg"\n')
    (root / ".gitignore").write_text("ignored.txt\n")
    for name in (".env", "server.key", "ignored.txt", "kept.txt"):
        (root / name).write_text(name)
    (root / "jobs").mkdir()
    for name, text in {"probe.py": PROBE, "patient.py": PATIENT}.items():
        (root / "jobs" / name).write_text(text)
        (root / "jobs" / name).chmod(0o755)
    return root


@pytest.fixture(scope="session")
def home_folder():
    """A home of this session; whatever stack is left in it is ended."""
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    yield folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSEG_HOME", str(folder))
        stacks.down(progress=print)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def mlflow_port_taken():
    """Somebody else listens where MLflow is looked for first."""
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", PORTS["mlflow"]))
            other.listen()
        except OSError:
            pass  # then somebody really does
        yield PORTS["mlflow"]


@pytest.fixture
def at_home(home_folder, checkout, monkeypatch):
    """This process in the checkout, with the session's home and no word of Ray in its environment."""
    for name in [name for name in os.environ if name.startswith(("RAY_", "RAYSEG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAYSEG_HOME", str(home_folder))
    monkeypatch.chdir(checkout)
    return home_folder


@pytest.fixture
def fresh_shell(home_folder):
    """The environment of a shell that knows this Python's programs and the home, and nothing of Ray."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": "/nonexistent",
        "RAYSEG_HOME": str(home_folder),
    }


@pytest.fixture
def stack(at_home, mlflow_port_taken):
    """The session's stack, up."""
    return stacks.up(progress=print)


@pytest.fixture
def sweep(tmp_path, tiny_shards):
    """Starts the tiny sweep's job file; what is left of it ends with the test."""
    sweeps = Sweeps(tmp_path, tiny_shards)
    yield sweeps
    sweeps.end()

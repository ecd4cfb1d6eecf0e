"""What several stages test with: a tiny drawn data set, in shards."""

import signal
import socket

import pytest
import torch

from rayseg.data import card as cards
from rayseg.data import shards

# A shell that starts its job in the background lets it ignore Ctrl-C, and what the job starts inherits that: the tests
# that interrupt a program would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # a second thread waits for a core that other processes have, and costs more than it gives


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Under `-n` keep a file's tests in one process, and all that start a cluster or a server one after another."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "servers" if file.startswith(("tests/cluster/", "tests/tracking/")) else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory):
    """24 + 5 drawn scenes of 48 x 64 pixels."""
    whole = cards.load("scenes").model_dump(mode="json", exclude_none=True)
    whole["generated"] |= {"height": 48, "width": 64}
    whole["splits"] = {"train": {"count": 24}, "val": {"count": 5}}
    out = tmp_path_factory.mktemp("tiny") / "shards"
    shards.write(cards.from_dict(whole), None, out, workers=2)
    return out


@pytest.fixture
def free_port():
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

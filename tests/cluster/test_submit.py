"""Jobs through `submit`: their log, their exit code, what is sent along, and to whom nothing is sent."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager

import psutil
import pytest
import ray

from rayseg.cluster import client_env, target
from rayseg.cluster import stack as stacks
from rayseg.cluster.package import pack
from rayseg.cluster.submit import submit
from rayseg.errors import ClusterError, UsageError

OURS = {
    "token_path": "/home/token",
    "dashboard_uri": "http://127.0.0.1:8265",
    "ray_address": "127.0.0.1:6379",
    "processes": [{"part": "ray", "pid": os.getpid()}],
}


def routable():
    """An address of this machine that is not the loopback."""
    found = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family == socket.AF_INET]
    return next((address for address in found if not address.startswith("127.")), None)


@contextmanager
def head(host, *, token=None, version=ray.__version__):
    """Something that answers as a Ray head does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            given = self.headers.get("Authorization")
            status = 200 if token is None or given == f"Bearer {token}" else 403 if given else 401
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"ray_version": version}).encode() if status == 200 else b"")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_job_code_and_log_come_through(stack, capsys):
    assert submit(["jobs/probe.py", "0"]) == 0
    assert submit(["jobs/probe.py", "4"]) == 4
    assert [line for line in capsys.readouterr().out.splitlines() if "leaving" in line] == [
        "leaving with 0",
        "leaving with 4",
    ]


def test_ctrl_c_stops_the_job(stack, tmp_path):
    closed = tmp_path / "closed"
    code = (
        f"import sys; from rayseg.cluster.submit import submit; sys.exit(submit(['jobs/patient.py', {str(closed)!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "started" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert closed.read_text() == "closed"
    assert stacks.status().ray.jobs == 0


def test_upload_leaves_secrets_here(stack, checkout, capfd):
    (checkout / "jobs" / "list.py").write_text("import os\nprint('saw', *sorted(os.listdir()))\n")
    assert submit(["jobs/list.py"], working_dir=checkout, env={"COLOUR": "blue"}) == 0
    said = capfd.readouterr().out
    assert "MiB zipped" in said
    seen = set(next(line for line in said.splitlines() if line.startswith("saw ")).split()[1:])
    assert {"jobs", "kept.txt"} <= seen
    assert not {".env", "server.key", "ignored.txt"} & seen


def test_package_over_the_limit_is_refused(checkout, tmp_path, monkeypatch):
    assert pack(checkout, tmp_path / "small.zip") == (tmp_path / "small.zip").stat().st_size
    assert "server.key" not in zipfile.ZipFile(tmp_path / "small.zip").namelist()
    big = tmp_path / "big"
    big.mkdir()
    with open(big / "noise.bin", "wb") as file:
        file.truncate(101 * 2**20)
    with pytest.raises(UsageError, match=r"101 MiB zipped.*\.rayignore"):
        pack(big, tmp_path / "big.zip")


@pytest.mark.parametrize("entrypoint", [["jobs/missing.py"], ["python", "jobs/missing.py"], ["no-such-program"], []])
def test_missing_job_is_a_usage_error(stack, entrypoint):
    with pytest.raises(UsageError, match="job"):
        submit(entrypoint)


def test_no_stack_is_a_cluster_error_that_names_the_command(at_home, monkeypatch, tmp_path):
    monkeypatch.setenv("RAYSEG_HOME", str(tmp_path / "empty"))
    with pytest.raises(ClusterError, match="rayseg up"):
        submit(["jobs/probe.py"])


def test_head_out_of_reach_or_no_head(at_home):
    with pytest.raises(ClusterError, match="no head answers"):
        submit(["jobs/probe.py"], address="http://127.0.0.1:9")
    with pytest.raises(UsageError, match="8265"):
        submit(["jobs/probe.py"], address="ray://127.0.0.1:10001")


def test_open_head_on_the_network_is_refused(at_home):
    if routable() is None:
        pytest.skip("this machine has the loopback alone")
    with head(routable()) as address:
        with pytest.raises(ClusterError, match="asks for no token"):
            submit(["jobs/probe.py"], address=address)
        target.check(target.Target(address=address), insecure=True)


def test_missing_and_wrong_token_are_told_apart(at_home, monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    with head("127.0.0.1", token="right") as address:
        there = target.Target(address=address)
        with pytest.raises(ClusterError, match="asks for a token"):
            target.check(there, insecure=False)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        with pytest.raises(ClusterError, match="refuses the token"):
            target.check(there, insecure=False)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
        target.check(there, insecure=False)


def test_other_ray_version_is_named(at_home):
    with head("127.0.0.1", version="2.9.3") as address, pytest.raises(ClusterError, match=r"Ray 2\.9\.3"):
        target.check(target.Target(address=address), insecure=False)


def test_proxy_of_the_environment_is_not_asked():
    code = "import sys; from rayseg.cluster import probe; print(probe.get(sys.argv[1]).status)"
    with head("127.0.0.1") as address:
        command = [sys.executable, "-c", code, address]
        environ = os.environ | {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        assert subprocess.run(command, env=environ, capture_output=True, text=True).stdout.strip() == "200"


@pytest.fixture
def ours(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYSEG_HOME", str(tmp_path))
    (tmp_path / "stack.json").write_text(json.dumps(OURS))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "environ", "given"),
    [
        (["job", "submit", "jobs/x.py"], {}, True),
        (["job", "submit", "--", "x.py", "--address", "http://10.0.0.1:8265"], {}, True),
        (["job", "list", "--address=http://localhost:8265"], {}, True),
        (["job", "submit", "x.py"], {"RAY_ADDRESS": "127.0.0.1:6379"}, True),
        (["job", "list", "--address", "http://10.0.0.1:8265"], {}, False),
        (["job", "list"], {"RAY_API_SERVER_ADDRESS": "http://10.0.0.1:8265"}, False),
        (["job", "list"], {"RAY_ADDRESS": "10.0.0.1:6379"}, False),
        (["start", "--head"], {}, False),
        (["stop"], {}, False),
        ([], {}, False),
    ],
)
def test_token_goes_to_our_stack_alone(ours, arguments, environ, given):
    found = client_env.for_command(arguments, environ)
    assert found.get("RAY_AUTH_TOKEN_PATH") == ("/home/token" if given else None)
    assert bool(found) == given
    assert not set(found) & set(environ)  # what the user set stays


def test_dead_stack_gives_a_client_nothing(ours):
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    (ours / "stack.json").write_text(json.dumps(OURS | {"processes": [{"part": "ray", "pid": gone.pid}]}))
    assert client_env.for_command(["job", "list"], {}) == {}

"""The local stack: closed to others, light to ask, and there for the plain `ray` command of a fresh shell."""

import ipaddress
import json
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rayseg.cluster import home, probe, record
from rayseg.cluster import stack as stacks
from rayseg.errors import UsageError


def is_loopback(text):
    address = ipaddress.ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def listening(process):
    try:
        return [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def content(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:  # a database's journal comes and goes
        return b""


def test_every_socket_is_on_loopback(stack):
    found = [ip for process in record.members(stack) for ip in listening(process)]
    assert len(found) >= 8
    assert all(map(is_loopback, found))


@pytest.mark.parametrize(("how", "status"), [("none", 401), ("wrong", 403), ("right", 200)])
def test_jobs_api_asks_for_the_token(stack, how, status):
    token = {"none": None, "wrong": "0" * 64, "right": stack.token_path.read_text()}[how]
    assert probe.get(f"{stack.dashboard_uri}/api/jobs/", token=token).status == status


def test_token_is_random_private_and_nowhere_else(stack):
    token = stack.token_path.read_text()
    assert len(bytes.fromhex(token)) == 32
    for name in ("token", "stack.json"):
        assert stat.S_IMODE((stack.home / name).stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (stack.home, stack.session_dir)} == {0o700}
    for process in record.members(stack):
        assert token not in " ".join(process.cmdline())
    files = [path for folder in (stack.home, stack.session_dir) for path in folder.rglob("*")]
    written = [path for path in files if path.is_file() and path != stack.token_path]
    assert len(written) > 10
    assert not [path for path in written if token.encode() in content(path)]


def test_second_up_changes_nothing(stack):
    said = []
    before = (stack.home / "stack.json").read_bytes()
    assert stacks.up(progress=said.append) == stack
    assert (stack.home / "stack.json").read_bytes() == before
    assert "up already" in said[-1]


def test_status_says_what_is_there(stack):
    found = stacks.status()
    assert found.up
    assert found.ray.cpus >= 1
    assert any(stack.tracking_uri in line for line in found.lines())
    assert home.tracking_uri() == stack.tracking_uri


def test_plain_ray_job_submit_works_in_a_fresh_shell(stack, checkout, fresh_shell):
    """Literally, at the repository's root; beside it a job that fails, and a job for a cluster that is not ours."""
    commands = {
        "works": ["ray", "job", "submit", "jobs/probe.py"],
        "fails": ["ray", "job", "submit", "--", "jobs/probe.py", "3"],
        "elsewhere": ["ray", "job", "submit", "--address", "http://127.0.0.1:9", "jobs/probe.py"],
    }
    running = {
        name: subprocess.Popen(
            command,
            cwd=checkout,
            env=fresh_shell,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, command in commands.items()
    }
    output = {name: process.communicate(timeout=150)[0] for name, process in running.items()}
    assert running["works"].returncode == 0, output["works"]
    found = json.loads(
        next(line for line in output["works"].splitlines() if line.startswith("found ")).removeprefix("found ")
    )
    for place in (found, found["worker"]):
        assert Path(place["cwd"]) == checkout
        assert Path(place["python"]).parent == Path(sys.executable).parent
        assert place["listening"]
        assert all(map(is_loopback, place["listening"]))
    assert found["RAYSEG_HOME"] == str(stack.home)
    assert found["RAYSEG_TRACKING_URI"] == stack.tracking_uri
    assert found["RAY_AUTH_TOKEN"] is None
    assert running["fails"].returncode == 1
    assert "leaving with 3" in output["fails"]
    assert running["elsewhere"].returncode != 0
    assert "submitted successfully" not in output["elsewhere"]


def test_broken_record_does_not_break_the_ray_command(fresh_shell, tmp_path):
    (tmp_path / "stack.json").write_text('{"processes": 7}')
    done = subprocess.run(
        ["ray", "job", "--help"], env=fresh_shell | {"RAYSEG_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert not done.stderr


def test_status_and_the_ray_hook_import_nothing_heavy():
    code = "import sys, {0}; print(*({{'ray', 'mlflow', 'torch', 'numpy', 'pydantic', 'psutil'}} & set(sys.modules)))"
    for module, allowed in {"stack": {"pydantic", "psutil"}, "client_env": set()}.items():
        command = [sys.executable, "-c", code.format(f"rayseg.cluster.{module}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) <= allowed


@pytest.mark.parametrize("name", ["../../etc", "..", "", "a b", "a/b", "x" * 129, "ü"])
def test_run_name_that_is_a_path_is_refused(at_home, name):
    with pytest.raises(UsageError):
        home.run_path(name)


def test_linked_run_folder_is_refused(at_home, tmp_path):
    (home.runs() / "linked").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="link"):
        home.run_path("linked")
    (home.runs() / "linked").unlink()


def test_token_stays_and_is_closed_again(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYSEG_HOME", str(tmp_path / "new"))
    path = home.ensure_token()
    drawn = path.read_text()
    path.chmod(0o644)
    assert home.ensure_token().read_text() == drawn
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_home_open_to_others_is_refused(monkeypatch, tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    monkeypatch.setenv("RAYSEG_HOME", str(tmp_path / "open"))
    with pytest.raises(UsageError, match="chmod 700"):
        home.root()

"""The stack's life: started once, mended when a part dies, ended with nothing but itself.

After the tests of a whole stack by its name: these leave it down or new.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from rayseg.cluster import processes, record
from rayseg.cluster import stack as stacks
from rayseg.cluster.starting import PORTS, taken
from rayseg.errors import ClusterError


def wait_for(condition, limit_s=60.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def living(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_taken_port_is_passed_over_and_said(stack, mlflow_port_taken, monkeypatch, tmp_path):
    assert stack.ports["mlflow"] != mlflow_port_taken
    said = []
    monkeypatch.setenv("RAYSEG_HOME", str(tmp_path / "other"))  # the session's stack holds the other ports
    with pytest.raises(ClusterError, match=r"did not answer within 0 s .*logs/"):
        stacks.up(progress=said.append, limit_s=0.0)
    assert f"port {mlflow_port_taken} is taken: mlflow uses" in "\n".join(said)
    assert f"port {PORTS['dashboard']} is taken: dashboard uses" in "\n".join(said)
    assert not (tmp_path / "other" / "stack.json").exists()
    assert not record.members(None)  # what had been started is ended


def test_dead_mlflow_is_started_again_beside_the_same_ray(stack):
    (server,) = [process for process in stack.processes if process.part == "mlflow"]
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: not processes.alive(server, stack.id))
    assert stacks.status().problems == {"mlflow": "has died"}
    mended = stacks.up(progress=print)
    assert mended.tracking_uri == stack.tracking_uri
    ray_of = [[process for process in each.processes if process.part == "ray"] for each in (stack, mended)]
    assert ray_of[0] == ray_of[1]
    assert stacks.status().up


@pytest.mark.parametrize("mend", [True, False])
def test_killed_head_is_mended_by_up_and_cleaned_by_down(stack, mend):
    """The agents that a dead raylet leaves carry neither its environment nor a parent of ours."""
    before = record.members(stack)
    assert [process for process in before if processes.ID not in process.environ()]
    for process in stack.processes:
        if process.name in ("gcs_server", "raylet"):
            os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: "ray" in stacks.status().problems)
    if mend:
        again = stacks.up(progress=print)
        assert again.id != stack.id
        assert stacks.status().up
    else:
        stacks.down(progress=print)
        assert stacks.status().stack is None
    assert not record.members(stack)
    assert not stack.session_dir.exists()
    assert not {process.pid for process in before} & {
        process.pid for process in psutil.process_iter() if living(process)
    }


def test_two_ups_at_once_start_one_stack(at_home):
    code = "from rayseg.cluster import stack; print(stack.up(progress=lambda line: None).id)"
    stacks.down(progress=print)  # where a test left one up
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ids = {process.communicate(timeout=200)[0].strip() for process in both}
    assert len(ids) == 1
    assert ids == {record.load().id}


def test_lost_record_is_no_lost_stack(stack):
    (stack.home / "stack.json").write_text("{")
    assert stacks.status().stack is None
    assert stacks.down(progress=print)
    assert not record.members(stack)


def test_down_ends_its_own_and_nothing_else(stack, checkout, fresh_shell, tmp_path):
    sleep = shutil.which("sleep")
    bystanders = [
        subprocess.Popen([name, "600"], executable=sleep, env=os.environ | {"RAYSEG_STACK": "another"})
        for name in ("gcs_server", "raylet", "mlflow")
    ]
    closed = tmp_path / "closed"
    submitted = ["ray", "job", "submit", "--no-wait", "--", "jobs/patient.py", str(closed)]
    subprocess.run(submitted, env=fresh_shell, cwd=checkout, check=True, capture_output=True)
    wait_for(lambda: any("patient.py" in " ".join(process.cmdline()) for process in record.members(stack)))
    time.sleep(1)  # until it listens to SIGTERM
    before = record.members(stack)
    try:
        ended = stacks.down(progress=print)
        assert [line.partition(":")[0] for line in ended] == ["ray", "mlflow"]
        assert not [process for process in before if process.is_running() and living(process)]
        assert all(bystander.poll() is None for bystander in bystanders)
        assert closed.read_text() == "closed"  # the job had time to end well
    finally:
        for bystander in bystanders:
            bystander.kill()
            bystander.wait()
    assert not any(map(taken, stack.ports.values()))
    assert not stack.session_dir.exists()
    assert stacks.down(progress=print) == []


@pytest.mark.parametrize("number", [None, "0badcafe"])
def test_reused_pid_is_nobody_of_ours(at_home, number):
    """After a restart of the machine, recorded numbers belong to strangers; after the clock was set, still to us."""
    environ = os.environ | ({processes.ID: number} if number else {})
    other = subprocess.Popen([shutil.which("sleep"), "600"], start_new_session=True, env=environ)
    try:
        seen = processes.record("ray", "raylet", psutil.Process(other.pid))
        assert processes.alive(seen, number or "")
        assert processes.alive(seen.model_copy(update={"created": seen.created - 60}), number or "") == bool(number)
        assert not record.members(None)
    finally:
        other.kill()
        other.wait()
    assert not processes.alive(seen, number or "")

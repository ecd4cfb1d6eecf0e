"""`rayseg doctor FILE`: the shipped files wait for the user's own values alone, and each fault has its line.

Every rule is proved by a copy of a shipped file, filled in, with one change. What Ray itself refuses is asked of Ray.
"""

import copy
import importlib.metadata
import json
import os
import re
import subprocess
import warnings
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from ray.autoscaler._private.util import prepare_config, validate_config

from rayseg.cluster import capacity, clusterfile
from rayseg.cluster.clusterfile import CLUSTER, FORM
from rayseg.cluster.watch import room_for
from rayseg.config import RunConfig
from rayseg.errors import UsageError

ROOT = Path(__file__).parents[2]
VMS = ("cluster.yaml", "docs/cluster/gcp.yaml", "docs/cluster/onprem.yaml")
PODS = ("docs/cluster/kuberay-raycluster.yaml", "docs/cluster/kuberay-rayjob.yaml")
FILES = (*VMS, *PODS, "docs/cluster/aws/security-group.json")
AWS, GCP, OWN, POD, JOB, GROUP = FILES
VALUES = {
    "aws_region": "eu-central-1",
    "image_id": "ami-0123456789abcdef0",
    "subnet_id": "subnet-0123456789abcdef0",
    "efs_file_system_id": "fs-0123456789abcdef0",
    "your_address": "203.0.113.7",
    "digest": "0123456789abcdef" * 4,
    "http_address_of_mlflow": "http://mlflow.tracking:5000",
    "private_address_of_the_head": "10.0.0.1",
}
"""What a user writes into the blanks; other blanks get a plain word."""


def filled_text(name):
    return re.sub(r"FILL_IN_(\w+)", lambda blank: VALUES.get(blank[1], "mine"), (ROOT / name).read_text())


def filled(name):
    return yaml.safe_load(filled_text(name))


def lines(found, **options):
    return [str(finding) for finding in clusterfile.examine(found, "f.yaml", **options)]


# --- the shipped files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_shipped_file_waits_for_the_users_values_alone(name):
    found = clusterfile.examine(clusterfile.read(ROOT / name), name)
    wanted = {blank.replace("_", " ").strip() for blank in re.findall(r"FILL_IN_(\w+)", _without_comments(name))}
    assert wanted
    assert {finding.what for finding in found} == {f"not filled in: {blank}" for blank in wanted}
    assert clusterfile.exit_code(found) == 2


def _without_comments(name):
    return "\n".join(line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#"))


@pytest.mark.parametrize("name", FILES)
def test_filled_in_nothing_is_said(name):
    assert lines(filled(name)) == []


@pytest.mark.parametrize("name", VMS)
def test_ray_takes_it(name):
    validate_config(prepare_config(filled(name)))


@pytest.mark.parametrize("name", PODS)
def test_kubernetes_file_is_plain_and_of_our_ray(name):
    found = filled(name)
    cluster = found["spec"].get("rayClusterSpec", found["spec"])
    assert cluster["rayVersion"] == importlib.metadata.version("ray")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # the CRD takes texts alone
        for container in group["template"]["spec"]["containers"]:
            assert all(isinstance(entry.get("value", ""), str) for entry in container["env"])


def test_both_kubernetes_files_have_the_same_cluster():
    assert filled(JOB)["spec"]["rayClusterSpec"] == filled(POD)["spec"]


def test_every_mounted_file_is_there_and_none_is_a_secret_of_the_repository():
    for name in VMS:
        for place, source in filled(name)["file_mounts"].items():
            assert source.startswith("~/.rayseg/") or (ROOT / source).exists(), source
            assert not re.search(r"(^|/)(\.|\.git|\.env|.*\.pem)$", source), place


# --- its commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VMS)
def test_commands_are_shell(name):
    found = filled(name)
    for key, commands in found.items():
        for command in commands if key.endswith("commands") else ():
            assert subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True).stderr == "", command


@pytest.fixture
def node(tmp_path):
    """A home of a node on which `ray` says how it was called."""
    programs = tmp_path / "rayseg" / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "ray").write_text('#!/bin/bash\n{ printf "%s\\n" "$@"; echo ---; env; } > $HOME/called\n')
    (programs / "ray").chmod(0o755)
    (tmp_path / ".rayseg").mkdir()
    for name in ("cluster-token", "mlflow-password"):
        (tmp_path / ".rayseg" / name).write_text(f"canary-{name}\n")
    return tmp_path


@pytest.mark.parametrize("who", ["head", "worker"])
@pytest.mark.parametrize("name", VMS)
def test_ray_starts_with_a_token_and_on_private_addresses(name, who, node):
    command = filled(name)[f"{who}_start_ray_commands"][-1]
    environ = {"HOME": str(node), "PATH": os.environ["PATH"], "RAY_HEAD_IP": "10.0.0.1"}
    subprocess.run(["bash", "-c", command], env=environ, check=True)
    asked, _, told = (node / "called").read_text().partition("---\n")
    told = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    assert told["RAY_AUTH_MODE"] == "token"
    assert Path(told["RAY_AUTH_TOKEN_PATH"]).read_text() == "canary-cluster-token\n"
    assert told["MLFLOW_TRACKING_PASSWORD"] == "canary-mlflow-password"
    assert told["RAYSEG_HOME"].startswith("/mnt/rayseg/")
    assert "canary" not in asked
    assert "canary" not in command
    if who == "head":
        assert {"--dashboard-host=127.0.0.1", "--num-cpus=0", "--num-gpus=0"} <= set(asked.split())
        assert told["RAYSEG_TRACKING_URI"].startswith("http://")
    else:
        assert "--address=10.0.0.1:6379" in asked.split()


def test_environment_is_installed_once_for_its_pins(node):
    install = next(line for line in filled(AWS)["setup_commands"] if "pip install" in line)
    code = node / "rayseg"
    for name in ("constraints.txt", "pyproject.toml"):
        (code / name).write_text("torch==2.15.0\n")
    python = code / ".venv" / "bin" / "python"
    python.write_text('#!/bin/bash\necho "$@" >> $HOME/installed\n')
    python.chmod(0o755)
    (node / "python3").write_text("#!/bin/bash\nexit 0\n")  # `python3 -m venv`: it is there
    (node / "python3").chmod(0o755)
    environ = {"HOME": str(node), "PATH": f"{node}:{os.environ['PATH']}"}

    def set_up():
        subprocess.run(["bash", "-c", install], env=environ, check=True)
        return (node / "installed").read_text().splitlines()

    assert len(set_up()) == 1
    assert "-c constraints.txt" in set_up()[0]
    assert len(set_up()) == 1
    (code / "constraints.txt").write_text("torch==2.16.0\n")
    assert len(set_up()) == 2


# --- its faults -----------------------------------------------------------------------------------------------------


def at(found, path):
    """Give what holds the last key of a path, and that key."""
    *way, last = path.split("/")
    for key in way:
        found = found[int(key) if isinstance(found, list) else key]
    return found, int(last) if isinstance(found, list) else last


def changed(name, path, value):
    """Give a filled copy with one value set, or dropped where it is None, or made from the old one by a function."""
    found = copy.deepcopy(filled(name))
    holder, key = at(found, path)
    if value is None:
        del holder[key]
    else:
        holder[key] = value(holder[key]) if callable(value) else value
    return found


def swap(old, new):
    """Replace a part of a text that is there."""

    def change(text):
        assert old in text
        return text.replace(old, new)

    return change


def more(line):
    return lambda listed: [*listed, line]


HEAD, GPU = "available_node_types/head", "available_node_types/gpu_1"
START, JOINS = "head_start_ray_commands/2", "worker_start_ray_commands/1"
PODS_HEAD = "spec/headGroupSpec/template/spec"
OPEN = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
DASHBOARD = OPEN | {"FromPort": 8265, "ToPort": 8265, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}
SPOT = {"MarketType": "spot"}

FAULTS = [
    # 73: its form
    (AWS, "cluster_name", None, FORM, "no cluster_name (f.yaml)"),
    (AWS, "provider", None, FORM, "no provider (f.yaml)"),
    (AWS, "min_workers", 1, FORM, "unknown key 'min_workers' (f.yaml): did you mean 'max_workers'?"),
    (AWS, "max_workers", "eight", FORM, "'eight' is not of type 'integer' (f.yaml: max_workers)"),
    (AWS, f"{GPU}/spot", True, FORM, "unknown key 'spot' (f.yaml: available_node_types.gpu_1)"),
    (AWS, f"{GPU}/resources/GPU", 0.5, FORM, "0.5 is not of type 'integer'"),
    (AWS, f"{GPU}/node_config", None, FORM, "no node_config (f.yaml: available_node_types.gpu_1)"),
    (AWS, "provider/type", "awss", FORM, "no provider 'awss' (f.yaml: provider.type): did you mean 'aws'?"),
    (AWS, "provider/region", None, FORM, "no region"),
    (GCP, "provider/project_id", None, FORM, "no project_id"),
    (OWN, "provider/worker_ips", None, FORM, "no worker_ips"),
    (OWN, "available_node_types", {"a": {"node_config": {}, "resources": {}}}, FORM, "no node types (f.yaml"),
    # 74: node types
    (AWS, "head_node_type", "heed", FORM, "no node type 'heed' (f.yaml: head_node_type): did you mean 'head'?"),
    (AWS, "available_node_types", None, FORM, "no node types"),
    (AWS, f"{GPU}/min_workers", 7, FORM, "min_workers 7 > max_workers 6"),
    (AWS, "max_workers", -1, FORM, "-1 is less than the minimum"),
    (AWS, f"{GPU}/max_workers", -1, FORM, "less than no node"),
    (AWS, "available_node_types/gpu_4/max_workers", lambda _: -2, FORM, "less than no node"),
    (AWS, GPU, lambda kind: kind | {"min_workers": 9, "max_workers": 9}, FORM, "the types' min_workers are 9 together"),
    (AWS, "provider/type", "azure", 0, "what is particular to azure is not looked at"),
    # 75: doors, secrets, spot
    (AWS, "provider/security_group", {"IpPermissions": [OPEN]}, CLUSTER, "anybody may connect (0.0.0.0/0, ports 22 to"),
    (
        AWS,
        "provider/security_group",
        {"IpPermissions": [DASHBOARD]},
        CLUSTER,
        "203.0.113.7/32 may connect to ports 8265",
    ),
    (GROUP, "IpPermissions/0/IpRanges/0/CidrIp", "0.0.0.0/0", CLUSTER, "anybody may connect"),
    (GROUP, "IpPermissions/0/IpRanges", [{"CidrIp": "::/0"}], CLUSTER, "anybody may connect"),
    (GROUP, "IpPermissions/0/Ipv6Ranges", [{"CidrIpv6": "::/0"}], CLUSTER, "anybody may connect (::/0"),
    (GROUP, "IpPermissions/0/IpRanges/0/CidrIp", "203.0.113.7/320", CLUSTER, "no range of addresses"),
    (GROUP, "IpPermissions/0/IpRanges/0/CidrIp", "10.0.0.0/8", 0, "16777216 addresses may use ssh"),
    (
        AWS,
        f"{GPU}/node_config/SecurityGroupIds",
        None,
        CLUSTER,
        "Ray makes a group for it that takes ssh from 0.0.0.0/0",
    ),
    (AWS, f"{HEAD}/node_config/MetadataOptions", None, CLUSTER, "(no IMDSv2)"),
    (AWS, f"{GPU}/node_config/MetadataOptions", {"HttpTokens": "optional"}, CLUSTER, "(no IMDSv2)"),
    (AWS, f"{HEAD}/node_config/IamInstanceProfile", None, CLUSTER, "may do all of EC2 and S3"),
    (AWS, f"{GPU}/node_config/IamInstanceProfile/Name", "rayseg-head", CLUSTER, "it has the head's role"),
    (AWS, f"{HEAD}/node_config/ImageId", None, CLUSTER, "no ImageId"),
    (AWS, f"{HEAD}/node_config/InstanceMarketOptions", SPOT, CLUSTER, "the head may be taken away"),
    (GCP, f"{HEAD}/node_config/scheduling", [{"preemptible": True}], CLUSTER, "the head may be taken away"),
    (AWS, f"{GPU}/node_config/InstanceMarketOptions", None, 0, "these workers are paid on demand"),
    (GCP, f"{GPU}/node_config/scheduling", None, 0, "these workers are paid on demand"),
    (GCP, f"{GPU}/node_config/networkInterfaces", None, CLUSTER, "Google's default one takes ssh from 0.0.0.0/0"),
    (GCP, f"{GPU}/node_config/networkInterfaces/0/accessConfigs", [{}], 0, "it gets a public address"),
    (AWS, "provider/aws_credentials", {"aws_access_key_id": "x"}, CLUSTER, "keys in the file"),
    (AWS, "setup_commands", more("export AWS_SECRET_ACCESS_KEY=abcd"), CLUSTER, "a key in the file"),
    (AWS, "setup_commands", more("echo AKIAIOSFODNN7EXAMPLE"), CLUSTER, "a key in the file"),
    (AWS, "setup_commands", more("git clone https://me:hunter2@host/x"), CLUSTER, "a key in the file"),
    (
        AWS,
        START,
        swap("RAY_AUTH_MODE=token ", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=s3 "),
        CLUSTER,
        "a token or password",
    ),
    (AWS, JOINS, swap("$(cat ~/.rayseg/mlflow-password)", "hunter2"), CLUSTER, "a token or password in the file"),
    (AWS, START, swap("RAY_AUTH_MODE=token ", ""), CLUSTER, "the head asks nobody for a token"),
    (AWS, JOINS, swap("RAY_AUTH_MODE=token ", ""), CLUSTER, "the worker asks nobody for a token"),
    (OWN, JOINS, swap("RAY_AUTH_MODE=token ", "RAY_AUTH_MODE=disabled "), CLUSTER, "the worker asks nobody"),
    (AWS, JOINS, swap("RAY_AUTH_TOKEN_PATH=$HOME/.rayseg/cluster-token", ""), CLUSTER, "the worker has no token"),
    (AWS, "file_mounts/~/.rayseg/cluster-token", None, CLUSTER, ""),
    (AWS, "head_start_ray_commands", None, CLUSTER, "Ray's own asks for no token"),
    (AWS, "worker_start_ray_commands", None, CLUSTER, "Ray's own asks for no token"),
    (AWS, START, swap("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), CLUSTER, "it listens on 0.0.0.0"),
    (AWS, START, swap("--dashboard-host=127.0.0.1", "--dashboard-host 8.8.8.8"), CLUSTER, "it listens on 8.8.8.8"),
    (AWS, "head_start_ray_commands", more("mlflow server --host 10.0.0.1"), CLUSTER, "MLflow asks nobody"),
    (AWS, JOINS, swap("$RAY_HEAD_IP", "52.1.2.3"), CLUSTER, "it joins by a public address, 52.1.2.3"),
    (AWS, "file_mounts/x", "~/.aws", CLUSTER, "~/.aws would lie on every node"),
    (AWS, "file_mounts/x", "~/.ssh/id_ed25519", CLUSTER, "~/.ssh/id_ed25519 would lie on every node"),
    (AWS, "file_mounts/x", ".", 0, "Ray hashes all files of the folder"),
    (AWS, f"{HEAD}/node_config/BlockDeviceMappings/0/Ebs/Encrypted", False, 0, "a disk that is not encrypted"),
    (AWS, "docker", {"image": "rayproject/ray:latest", "container_name": "r"}, CLUSTER, "another image tomorrow"),
    (AWS, "setup_commands", None, CLUSTER, "a build of the day"),
    (AWS, "setup_commands", more("pip install torch"), CLUSTER, "packages that nobody pinned"),
    (AWS, "provider/cache_stopped_nodes", None, 0, "nodes are stopped, not ended"),
    # 79: room
    (AWS, "max_workers", 0, CLUSTER, "no node could ever run a trial"),
    (AWS, f"{GPU}/resources/CPU", 1, CLUSTER, "1 CPUs for 1 GPUs: a trial takes 2 CPUs with each GPU"),
    (AWS, f"{HEAD}/resources/CPU", 4, 0, "trials would run on the head too"),
    (OWN, START, swap("--num-gpus=0", ""), 0, "trials would run on the head too"),
    (AWS, f"{GPU}/max_workers", 5, CLUSTER, "RAYSEG_GROWS_TO=CPU=116,GPU=13"),
    (AWS, "max_workers", 3, CLUSTER, "RAYSEG_GROWS_TO=CPU=100,GPU=9"),
    (AWS, START, swap("RAYSEG_GROWS_TO=CPU=120,GPU=14", ""), CLUSTER, "cannot know that GPUs will come"),
    (AWS, START, swap("GROWS_TO=CPU=120,GPU=14", "GROWS_TO=many"), CLUSTER, "cannot read 'many'"),
    (AWS, "idle_timeout_minutes", None, 0, "nodes stay for Ray's 5 minutes"),
    # 80: storage
    (AWS, JOINS, swap("RAYSEG_HOME=/mnt/rayseg/home", ""), CLUSTER, "runs would lie on each node's own disk"),
    (AWS, START, swap("RAYSEG_HOME=/mnt/rayseg/home", "RAYSEG_HOME=s3://b/home"), CLUSTER, "an object store cannot"),
    (
        AWS,
        START,
        swap("RAYSEG_HOME=/mnt/rayseg/home", "RAYSEG_HOME=/home/ubuntu/h"),
        CLUSTER,
        "nothing mounts /home/ub",
    ),
    (
        OWN,
        JOINS,
        swap("RAYSEG_HOME=/mnt/rayseg/home", "RAYSEG_HOME=/mnt/raysegs"),
        CLUSTER,
        "nothing mounts /mnt/raysegs",
    ),
    # 82: tracking
    (AWS, START, swap("http://$HERE:5050", "file:/mlruns"), CLUSTER, "'file:/mlruns' is no tracking server"),
    (AWS, START, swap("http://$HERE:5050", "./mlruns"), CLUSTER, "'./mlruns' is no tracking server"),
    (AWS, START, swap("http://$HERE:5050", "http://u:p@h"), CLUSTER, "it holds a user or a password"),
    (AWS, START, swap("http://$HERE:5050", "http://127.0.0.1:5050"), CLUSTER, "on a worker that address is the worker"),
    (AWS, START, swap("RAYSEG_TRACKING_URI=http://$HERE:5050", ""), 0, "no MLflow is named"),
    (
        AWS,
        JOINS,
        swap("AWS_REGION=eu-central-1", "AWS_REGION=us-east-1"),
        0,
        "AWS_REGION is us-east-1, the cluster is in",
    ),
    # Kubernetes
    (POD, "apiVersion", "ray.io/v1alpha1", FORM, "a RayCluster of ray.io/v1alpha1"),
    (POD, "kind", "RayService", FORM, "a RayService of ray.io/v1"),
    (POD, "metadata", None, FORM, "no name"),
    (
        POD,
        "spec/headGroupSpecs",
        {},
        FORM,
        "unknown key 'headGroupSpecs' (f.yaml: spec): did you mean 'headGroupSpec'?",
    ),
    (POD, "spec/workerGroupSpecs/0/minReplica", 0, FORM, "unknown key 'minReplica'"),
    (POD, "spec/autoscalerOptions/idleTimeout", 1, FORM, "unknown key 'idleTimeout'"),
    (JOB, "spec/entrypoint", None, FORM, "no entrypoint"),
    (POD, "spec/workerGroupSpecs/0/minReplicas", 9, FORM, "minReplicas 9, replicas 0, maxReplicas 8"),
    (POD, "spec/authOptions", None, CLUSTER, "the cluster asks nobody for a token"),
    (JOB, "spec/rayClusterSpec/authOptions/mode", "disabled", CLUSTER, "the cluster asks nobody for a token"),
    (POD, "spec/networkPolicy", None, 0, "any pod of the Kubernetes cluster may connect"),
    (POD, "spec/rayVersion", "2.9.0", CLUSTER, "it runs Ray 2.9.0, this is"),
    (POD, "spec/headGroupSpec/serviceType", "LoadBalancer", CLUSTER, "open to the outside"),
    (POD, "spec/headGroupSpec/rayStartParams/num-cpus", None, 0, "trials would run on the head too"),
    (POD, f"{PODS_HEAD}/nodeSelector", {"cloud.google.com/gke-spot": "true"}, CLUSTER, "the head may be taken away"),
    (POD, f"{PODS_HEAD}/hostNetwork", True, CLUSTER, "it sees the whole node"),
    (POD, f"{PODS_HEAD}/containers/0/image", "rayproject/ray:2.60.0", CLUSTER, "may be another image tomorrow"),
    (POD, f"{PODS_HEAD}/containers/0/securityContext", {"privileged": True}, CLUSTER, "a privileged container"),
    (POD, f"{PODS_HEAD}/containers/0/env", more({"name": "HUB_TOKEN", "value": "x1"}), CLUSTER, "HUB_TOKEN stands in"),
    (POD, f"{PODS_HEAD}/volumes/0", {"name": "runs", "emptyDir": {}}, CLUSTER, "nothing mounts /mnt/rayseg/home"),
    (POD, "spec/workerGroupSpecs/0/maxReplicas", 4, CLUSTER, "RAYSEG_GROWS_TO=CPU=16,GPU=4"),
    (POD, "spec/workerGroupSpecs/0/maxReplicas", 0, CLUSTER, "no pod could ever run a trial"),
    (POD, "spec/enableInTreeAutoscaling", False, 0, "it never grows nor shrinks"),
    (JOB, "spec/shutdownAfterJobFinishes", False, 0, "the pods stay when the job is over"),
]


@pytest.mark.parametrize(
    ("name", "path", "value", "code", "line"), FAULTS, ids=[f"{n}-{f[1]}" for n, f in enumerate(FAULTS)]
)
def test_each_fault_has_its_line(name, path, value, code, line):
    if path.startswith("file_mounts/"):  # whose keys have slashes of their own
        found = filled(name)
        mounts, place = found["file_mounts"], path.removeprefix("file_mounts/")
        if value is None:
            del mounts[place]
            line = "nothing brings ~/.rayseg/cluster-token to the worker"
        else:
            mounts[place] = value
    else:
        found = changed(name, path, value)
    said = clusterfile.examine(found, "f.yaml")
    hits = [finding for finding in said if line in str(finding)]
    assert hits, [str(finding) for finding in said]
    assert {finding.code for finding in hits} == {code}
    assert clusterfile.exit_code(said) == code
    assert all(str(finding).startswith("error: " if finding.code else "warning: ") for finding in said)
    assert all("\n" not in str(finding) and len(str(finding)) <= 300 for finding in said)


@pytest.mark.parametrize("secret", ["AKIAIOSFODNN7EXAMPLE", "https://me:hunter2@host/x", "RAY_AUTH_TOKEN=s3cr3t99"])
def test_secret_is_not_said_again(secret):
    said = "\n".join(lines(changed(AWS, "setup_commands", more(f"echo {secret}"))))
    assert "in the file" in said
    assert not any(part in said for part in ("AKIAIOSFODNN7", "hunter2", "s3cr3t99"))


def test_head_on_spot_can_be_asked_for():
    assert lines(changed(AWS, f"{HEAD}/node_config/InstanceMarketOptions", SPOT), head_on_spot=True) == []


def test_whole_repository_mounted_needs_its_excludes():
    found = filled(AWS)
    found["file_mounts"]["~/rayseg"] = "."
    found["rsync_exclude"] = []
    assert any(".git and .env would travel" in line for line in lines(found))


def test_what_ray_refuses_is_refused():
    """Of the faults above, each that Ray's own code refuses is an error of the form here."""
    refused = 0
    for name, path, value, code, _ in FAULTS:
        if name not in VMS or path.startswith("file_mounts/"):
            continue
        found = changed(name, path, value)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                validate_config(prepare_config(copy.deepcopy(found)))
        except Exception:
            refused += 1
            assert code == FORM, path
        except SystemExit:
            refused += 1
            assert code == FORM, path
    assert refused >= 8


# --- reading --------------------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
UNREADABLE = [
    (b"", "it is empty"),
    (b"# a comment\n", "it is empty"),
    (b"a: [1, 2\nb: 3\n", r"f\.yaml:2:2"),
    (b"a: 1\nb: 2\na: 3\n", r"'a' stands twice \(.*f\.yaml:3:1\)"),
    (b"provider: {type: aws, type: gcp}\n", r"'type' stands twice"),
    (b"a: !!python/object/apply:os.system [touch pwned]\n", "is no plain type"),
    (BOMB.encode(), "more than 20000 values"),
    (b"a: &a [*a]\n", "more than 20000 values"),
    ("cluster_name: x\n".encode("utf-16"), "no text in UTF-8"),
    (b"\x00\x01\xff\xfe" * 100, "no text in UTF-8"),
    (b"a: " + b"x" * 300_000, "more than 256 KiB"),
    (b"a: 2026-99-99\n", "not plain YAML"),
]


@pytest.mark.parametrize(("content", "line"), UNREADABLE, ids=[line for _, line in UNREADABLE])
def test_unreadable_file_is_a_usage_error(content, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=line):
        clusterfile.read(tmp_path / "f.yaml")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("place", ["missing.yaml", "."])
def test_no_file_is_a_usage_error(place, tmp_path):
    with pytest.raises(UsageError, match="cannot read it"):
        clusterfile.read(tmp_path / place)


@pytest.mark.parametrize("value", [[1, 2], "text", 3])
def test_root_that_is_no_mapping(value):
    assert [line[:9] for line in lines(value)] == ["error: a "]


def test_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfcluster_name: x\n")
    assert clusterfile.read(tmp_path / "f.yaml") == {"cluster_name": "x"}


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def doctor(tmp_path, monkeypatch):
    """Runs `rayseg doctor` on a text, in the repository's root, at a home of its own that has both secrets."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    (tmp_path / ".rayseg").mkdir()
    for name in ("cluster-token", "mlflow-password"):
        (tmp_path / ".rayseg" / name).touch(mode=0o600)

    def run(text, *options):
        from rayseg.cli import rayseg

        (tmp_path / "f.yaml").write_text(text)
        return CliRunner().invoke(rayseg, ["doctor", str(tmp_path / "f.yaml"), *options], standalone_mode=False)

    return run


def test_command_says_that_nothing_is_wrong(doctor):
    result = doctor(filled_text(AWS))
    assert (result.return_value, result.stderr) == (0, "")
    assert result.stdout.endswith("nothing is wrong\n")


def test_command_exits_with_2_or_5_or_0(doctor):
    for text, code, said in (
        (filled_text(AWS).replace("min_workers: 0", "min_workers: 9", 1), 2, "error: min_workers 9 > max_workers 0"),
        (filled_text(AWS).replace("HttpTokens: required", "HttpTokens: optional"), 5, "error: any request"),
        (filled_text(AWS).replace("idle_timeout_minutes: 10", ""), 0, ""),
    ):
        result = doctor(text)
        assert result.return_value == code, result.output
        assert result.stderr.startswith(said)
        assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    assert result.stdout.startswith("warning: nodes stay")


def test_command_looks_at_the_secrets_that_will_be_sent(doctor, tmp_path):
    (tmp_path / ".rayseg" / "cluster-token").chmod(0o644)
    (tmp_path / ".rayseg" / "mlflow-password").unlink()
    result = doctor(filled_text(AWS))
    assert result.return_value == 5
    assert "others may read ~/.rayseg/cluster-token" in result.stderr
    assert "there is no ~/.rayseg/mlflow-password" in result.stderr


# --- what a cluster may grow to -------------------------------------------------------------------------------------


def test_sweep_on_a_bare_head_plans_for_the_workers_to_come(monkeypatch):
    bare = {"node:__internal_head__": 1.0}
    config = RunConfig.model_construct  # only what room_for reads
    monkeypatch.setenv(capacity.NAME, "CPU=120,GPU=14")
    grown = capacity.grown(bare)
    assert grown == {"node:__internal_head__": 1.0, "CPU": 120.0, "GPU": 14.0}
    assert capacity.grown({"CPU": 200.0}) == {"CPU": 200.0, "GPU": 14.0}
    for workers, at_once in ((1, 14), (4, 3)):
        asked = config(train=_Named(workers=workers), data=_Named(loader_threads=2))
        found = room_for(asked, grown)
        assert (found.gpus_per_worker, found.concurrent) == (1.0, at_once)
    monkeypatch.delenv(capacity.NAME)
    assert capacity.grown(bare) == bare


class _Named:
    def __init__(self, **fields):
        self.__dict__.update(fields)


@pytest.mark.parametrize("text", ["many", "CPU", "CPU=", "CPU=1.5", "TPU=1", "CPU=1;GPU=2", "CPU=-1"])
def test_growth_that_cannot_be_read(text, monkeypatch):
    monkeypatch.setenv(capacity.NAME, text)
    with pytest.raises(UsageError, match="RAYSEG_GROWS_TO"):
        capacity.grown({})


# --- the cloud's side -----------------------------------------------------------------------------------------------


def test_policies_are_the_least(tmp_path):
    read = {
        name: json.loads((ROOT / f"docs/cluster/aws/{name}-policy.json").read_text()) for name in ("head", "worker")
    }
    allowed = {
        name: {action for part in policy["Statement"] for action in [part["Action"]] for action in _listed(action)}
        for name, policy in read.items()
    }
    assert allowed["worker"] == {"s3:GetObject", "s3:ListBucket"}
    assert not any("*" in action for actions in allowed.values() for action in actions)
    for policy in read.values():
        for part in policy["Statement"]:
            looks = all(action.startswith("ec2:Describe") for action in _listed(part["Action"]))
            assert looks or part["Resource"] != "*" or "Condition" in part, part["Sid"]


def _listed(value):
    return value if isinstance(value, list) else [value]

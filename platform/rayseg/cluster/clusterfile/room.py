"""Whether it will work: room for trials on the workers and none on the head, folders that all nodes share, tracking."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from rayseg.cluster import capacity
from rayseg.cluster.clusterfile.doors import commands
from rayseg.cluster.clusterfile.finding import CLUSTER, Finding, items, mapping, variables, warning
from rayseg.config import DataConfig
from rayseg.errors import RaysegError
from rayseg.tracking.server import check_uri

SETUP = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
_SHELL = re.compile(r"\$\([^)]*\)|\$\{?\w+\}?")


def room(found: Mapping[str, Any]) -> Iterator[Finding]:
    """List what would not run."""
    yield from _sizes(found)
    mounted = mounts([str(line) for key in SETUP for line in items(found.get(key))])
    for who in ("head", "worker"):
        yield from storage(variables(commands(found, who)), mounted, f"{who}_start_ray_commands")
    yield from tracking(variables(commands(found, "head")), "head_start_ray_commands")
    if "idle_timeout_minutes" not in found:
        yield warning("nodes stay for Ray's 5 minutes when idle", "idle_timeout_minutes", "say how long you pay for")
    region, said = found["provider"].get("region"), variables(commands(found, "worker")).get("AWS_REGION")
    if found["provider"]["type"] == "aws" and said and region and said != region:
        what = f"AWS_REGION is {said}, the cluster is in {region}"
        yield warning(what, "worker_start_ray_commands", "shards are read from that region, and the way is paid for")


def _sizes(found: Mapping[str, Any]) -> Iterator[Finding]:
    kinds, head = mapping(found.get("available_node_types")), str(found.get("head_node_type"))
    said = variables(commands(found, "head")).get("RAYSEG_GROWS_TO")
    if not kinds:
        starting = " ".join(commands(found, "head"))
        if "--num-cpus=0" not in starting or "--num-gpus=0" not in starting:
            yield _crowded("head_start_ray_commands", "ray start --head --num-cpus=0 --num-gpus=0")
        return
    if any(mapping(kinds[head]).get("resources", {}).get(name, 1) for name in ("CPU", "GPU")):
        yield _crowded(f"available_node_types.{head}.resources", "resources: {CPU: 0, GPU: 0}")
    grown = grows_to(found)
    if not grown.get("CPU"):
        fix = "give a worker type max_workers and resources"
        yield Finding(CLUSTER, "no node could ever run a trial", "available_node_types", fix)
        return
    threads = int(DataConfig.model_fields["loader_threads"].default)
    for name, kind in kinds.items():
        has = kind["resources"]
        if name != head and has.get("CPU", 0) < max(1, threads * has.get("GPU", 0)):
            what = f"{has.get('CPU', 0)} CPUs for {has.get('GPU', 0)} GPUs: a trial takes {threads} CPUs with each GPU"
            yield Finding(CLUSTER, what, f"available_node_types.{name}.resources", "give it more CPUs, or fewer GPUs")
    yield from promised(said, grown, "head_start_ray_commands")


def _crowded(where: str, fix: str) -> Finding:
    return warning("trials would run on the head too, beside every driver", where, fix)


def grows_to(found: Mapping[str, Any]) -> dict[str, int]:
    """Sum up the CPUs and GPUs of all workers that the types allow; fewer where `max_workers` allows fewer nodes."""
    workers = {n: k for n, k in found["available_node_types"].items() if n != found["head_node_type"]}
    most = found.get("max_workers", 2)
    left, total = most, {"CPU": 0, "GPU": 0}
    for kind in sorted(workers.values(), key=lambda k: -k["resources"].get("GPU", 0)):
        count = min(left, kind.get("max_workers", most))
        left -= count
        for name in total:
            total[name] += count * kind["resources"].get(name, 0)
    return {name: size for name, size in total.items() if size}


def promised(said: str | None, grown: Mapping[str, int], where: str) -> Iterator[Finding]:
    """Compare what the head is told of the workers to come with the node types."""
    fix = f"RAYSEG_GROWS_TO={capacity.text(grown)}"
    if said is None:
        what = "a sweep on a cluster without a worker yet cannot know that GPUs will come"
        yield Finding(CLUSTER, what, where, f"set {fix}")
        return
    try:
        told = capacity.parse(said)
    except RaysegError as error:
        yield Finding(CLUSTER, error.what, where, f"write {fix}")
        return
    if told != grown:
        yield Finding(CLUSTER, f"RAYSEG_GROWS_TO={said}, and the node types have another sum", where, f"write {fix}")


def mounts(lines: list[str]) -> list[PurePosixPath]:
    """List the folders that commands mount, or at least check to be mounted."""
    found = []
    for line in lines:
        found += re.findall(r"mountpoint(?:\s+-\w+)*\s+(/\S+)", line)
        if re.search(r"\bmount(\.\w+)?\s+-", line):
            found += re.findall(r"\s(/[\w./-]+)(?=\s|;|$)", line)
    return [PurePosixPath(place.rstrip(";")) for place in found]


def storage(said: Mapping[str, str], mounted: list[PurePosixPath], where: str) -> Iterator[Finding]:
    """Check that runs lie where all nodes see them."""
    home = said.get("RAYSEG_HOME", "")
    if not home:
        what = "runs would lie on each node's own disk, and go with it"
        yield Finding(CLUSTER, what, where, "set RAYSEG_HOME to a folder that all nodes mount")
    elif "://" in home:
        what = "run directories are folders: an object store cannot hold them"
        yield Finding(CLUSTER, what, where, "set RAYSEG_HOME to a folder that all nodes mount (EFS, Filestore, NFS)")
    elif not any(PurePosixPath(home).is_relative_to(place) for place in mounted):
        what = f"nothing mounts {home}: each node would have its own"
        yield Finding(CLUSTER, what, where, "mount a shared file system there in setup_commands")


def tracking(said: Mapping[str, str], where: str) -> Iterator[Finding]:
    """Check the address of the tracking server."""
    uri = said.get("RAYSEG_TRACKING_URI")
    if uri is None:
        fix = "set RAYSEG_TRACKING_URI to its http(s) address"
        yield warning("runs are tracked in their folders alone: no MLflow is named", where, fix)
        return
    plain = _SHELL.sub("head", re.sub(r"FILL_IN_\w+", "http://head", uri) if uri.startswith("FILL_IN") else uri)
    try:
        check_uri(plain)
    except RaysegError as error:
        yield Finding(CLUSTER, f"RAYSEG_TRACKING_URI: {error.what}", where, error.fix)
        return
    if re.search(r"//(127\.|localhost|\[::1\])", plain):
        fix = "use the head's private address: trials run on the workers"
        yield Finding(CLUSTER, "RAYSEG_TRACKING_URI: on a worker that address is the worker itself", where, fix)

"""What the machines are: who is on spot, what their roles may do, how metadata is asked for, what is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rayseg.cluster.clusterfile.finding import CLUSTER, Finding, items, mapping, warning

PINNED = re.compile(r"@sha256:([0-9a-f]{64}|FILL_IN)")
_PIP = re.compile(r"\bpip3? install\b")


def nodes(found: Mapping[str, Any], *, head_on_spot: bool) -> Iterator[Finding]:
    """List what is wrong with the machines."""
    kinds, head = mapping(found.get("available_node_types")), found.get("head_node_type")
    cloud = found["provider"]["type"]
    for name, kind in kinds.items():
        config, where = mapping(kind.get("node_config")), f"available_node_types.{name}.node_config"
        if cloud == "aws":
            yield from _aws(config, where, is_head=name == head)
        if cloud == "gcp":
            yield from _gcp(config, where)
        if name == head and _on_spot(config) and not head_on_spot:
            fix = "take it on demand, or say --head-on-spot"
            yield Finding(CLUSTER, "the head may be taken away, and every sweep with it", where, fix)
        if name != head and kind.get("max_workers") != 0 and cloud in ("aws", "gcp") and not _on_spot(config):
            yield warning("these workers are paid on demand", where, "spot: trials go on from their commits")
    yield from _roles(kinds, head, cloud)
    yield from _software(found)


def _on_spot(config: Mapping[str, Any]) -> bool:
    market = mapping(config.get("InstanceMarketOptions")).get("MarketType")
    scheduling = config.get("scheduling")
    how = [mapping(each) for each in (scheduling if isinstance(scheduling, list) else [scheduling])]
    return market == "spot" or any(h.get("preemptible") or h.get("provisioningModel") == "SPOT" for h in how)


def _aws(config: Mapping[str, Any], where: str, *, is_head: bool) -> Iterator[Finding]:
    options = mapping(config.get("MetadataOptions"))
    if options.get("HttpTokens") != "required" or options.get("HttpPutResponseHopLimit") != 1:
        fix = "MetadataOptions: {HttpTokens: required, HttpPutResponseHopLimit: 1}"
        yield Finding(CLUSTER, "any request from the node gets its role's keys (no IMDSv2)", where, fix)
    if not items(config.get("SecurityGroupIds")) and not config.get("NetworkInterfaces"):
        what = "Ray makes a group for it that takes ssh from 0.0.0.0/0, beside what provider.security_group says"
        yield Finding(CLUSTER, what, where, "name yours in SecurityGroupIds; docs/cluster/README.md makes one")
    if not config.get("ImageId"):
        yield Finding(CLUSTER, "no ImageId: Ray's own is Ubuntu 18.04 without a Python that will do", where, "name one")
    if is_head and not config.get("IamInstanceProfile"):
        what = "Ray makes a role for it that may do all of EC2 and S3"
        yield Finding(CLUSTER, what, where, "IamInstanceProfile: one with docs/cluster/aws/head-policy.json")
    for disk in map(mapping, items(config.get("BlockDeviceMappings"))):
        if mapping(disk.get("Ebs")).get("Encrypted") is not True:
            yield warning("a disk that is not encrypted", f"{where}.BlockDeviceMappings", "Encrypted: true")


def _gcp(config: Mapping[str, Any], where: str) -> Iterator[Finding]:
    networks = [mapping(each) for each in items(config.get("networkInterfaces"))]
    if not networks:
        what = "it would join a network whose rules are not known; Google's default one takes ssh from 0.0.0.0/0"
        yield Finding(CLUSTER, what, where, "name your subnetwork in networkInterfaces")
    if any("accessConfigs" in network for network in networks):
        yield warning("it gets a public address", f"{where}.networkInterfaces", "drop accessConfigs, ssh through IAP")


def _roles(kinds: Mapping[str, Any], head: Any, cloud: str) -> Iterator[Finding]:
    field = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}.get(cloud, "")
    given = {name: mapping(kind.get("node_config")).get(field) for name, kind in kinds.items()}
    for name, role in given.items():
        if name != head and role and role == given.get(head):
            where = f"available_node_types.{name}.node_config.{field}"
            yield Finding(CLUSTER, "a job on it could start machines: it has the head's role", where, "give it its own")


def _software(found: Mapping[str, Any]) -> Iterator[Finding]:
    docker = mapping(found.get("docker"))
    for key in ("image", "head_image", "worker_image"):
        if (image := docker.get(key)) and not PINNED.search(str(image)):
            yield Finding(
                CLUSTER, f"'{image}' may be another image tomorrow", f"docker.{key}", "name its @sha256: digest"
            )
    if not docker and found["provider"]["type"] != "local" and not items(found.get("setup_commands")):
        what = "Ray's own set-up would install a build of the day"
        yield Finding(CLUSTER, what, "setup_commands", "take them from the repository's cluster.yaml")
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands"):
        for line in items(found.get(key)):
            if _PIP.search(str(line)) and not re.search(r"(-c|--constraint|--require-hashes)\b", str(line)):
                yield Finding(CLUSTER, "packages that nobody pinned", key, "pip install -c constraints.txt ...")
    if mapping(found["provider"]).get("type") == "aws" and found["provider"].get("cache_stopped_nodes", True):
        what = "nodes are stopped, not ended: their disks cost on"
        yield warning(what, "provider.cache_stopped_nodes", "set it to false")

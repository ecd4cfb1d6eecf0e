"""Who can get in: security groups, networks, the addresses that Ray and MLflow listen on, the token."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rayseg.cluster.clusterfile.finding import CLUSTER, Finding, items, mapping, variables, warning

SSH = 22
WIDEST_PREFIX = {4: 16, 6: 32}
"""A range for ssh that is wider than this is no office and no VPN."""
_LISTENING = re.compile(r"--(?:dashboard-)?host[ =]\s*[\"']?(\S+?)[\"']?(?:\s|$)")
_JOINING = re.compile(r"ray start .*?--address[ =][\"']?([^\s\"':]+)", re.S)
_MOUNTED = ("~/.aws", "~/.ssh", "~/.config/gcloud", "~/.kube", "~/.netrc", "~")


def doors(found: Mapping[str, Any]) -> Iterator[Finding]:
    """List the doors that are open."""
    group = mapping(found["provider"].get("security_group"))
    yield from rules(group.get("IpPermissions"), "provider.security_group.IpPermissions")
    for who in ("head", "worker"):
        yield from _start(found, who)
    yield from _mounts(found)
    yield from _distributed(found)


def rules(permissions: Any, where: str) -> Iterator[Finding]:
    """List what a security group's rules let in that they should not."""
    for rule in map(mapping, items(permissions)):
        ports = range(int(rule.get("FromPort", 0)), int(rule.get("ToPort", 65535)) + 1)
        ranges = [each.get("CidrIp") for each in map(mapping, items(rule.get("IpRanges")))]
        ranges += [each.get("CidrIpv6") for each in map(mapping, items(rule.get("Ipv6Ranges")))]
        for cidr in ranges:
            yield from _range(str(cidr), ports, where)


def _range(cidr: str, ports: range, where: str) -> Iterator[Finding]:
    if "FILL_IN" in cidr:
        return
    try:
        network = ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        yield Finding(CLUSTER, f"no range of addresses: {cidr}", where, "write it as 203.0.113.7/32")
        return
    fix = "give the range that your people use, such as 203.0.113.7/32"
    if network.prefixlen == 0:
        yield Finding(CLUSTER, f"anybody may connect ({cidr}, ports {ports.start} to {ports.stop - 1})", where, fix)
    elif list(ports) != [SSH]:
        what = f"{cidr} may connect to ports {ports.start} to {ports.stop - 1}"
        yield Finding(CLUSTER, what, where, "open 22 alone: everything else goes through ssh")
    elif network.prefixlen < WIDEST_PREFIX[network.version]:
        yield warning(f"{network.num_addresses} addresses may use ssh ({cidr})", where, fix)


def commands(found: Mapping[str, Any], who: str) -> list[str]:
    """List the commands that start Ray on the head or on a worker."""
    return [str(line) for line in items(found.get(f"{who}_start_ray_commands"))]


def _start(found: Mapping[str, Any], who: str) -> Iterator[Finding]:
    where, lines = f"{who}_start_ray_commands", commands(found, who)
    starting = [line for line in lines if "ray start" in line]
    if not starting:
        what = "no `ray start` here, and Ray's own asks for no token"
        yield Finding(CLUSTER, what, where, "take them from the repository's cluster.yaml")
        return
    said = variables(starting)
    if said.get("RAY_AUTH_MODE") != "token":
        yield Finding(
            CLUSTER, f"the {who} asks nobody for a token", where, "set RAY_AUTH_MODE=token before `ray start`"
        )
    elif not said.get("RAY_AUTH_TOKEN_PATH"):
        yield Finding(CLUSTER, f"the {who} has no token", where, "set RAY_AUTH_TOKEN_PATH to a file that is mounted")
    yield from _listening(lines, where)
    if who == "worker" and (joined := _JOINING.search(starting[0])) and not _private(joined[1]):
        yield Finding(
            CLUSTER, f"it joins by a public address, {joined[1]}", where, "use $RAY_HEAD_IP, which is private"
        )


def _listening(lines: list[str], where: str) -> Iterator[Finding]:
    for line in lines:
        for address in _LISTENING.findall(line):
            if address.rstrip(";") in ("0.0.0.0", "::", "[::]") or not _private(address):
                fix = "127.0.0.1 for the dashboard, the node's private address for MLflow"
                yield Finding(CLUSTER, f"it listens on {address}", where, fix)
        serves = re.search(r"mlflow[\s\"']+server", line) and "--host" in line
        if serves and "--app-name basic-auth" not in line and not re.search(r"--host[ =]\s*(127\.|localhost)", line):
            yield Finding(CLUSTER, "MLflow asks nobody for a password", where, "add --app-name basic-auth")


def _private(address: str) -> bool:
    """Whether an address is not one of the open network; what a shell is still to fill in counts as private."""
    try:
        found = ipaddress.ip_address(address.strip("[];\"'"))
    except ValueError:
        return True
    return found.is_private and not found.is_unspecified


def _mounts(found: Mapping[str, Any]) -> Iterator[Finding]:
    left_out = [str(pattern) for pattern in items(found.get("rsync_exclude"))]
    for place, source in mapping(found.get("file_mounts")).items():
        source = str(source).rstrip("/")
        if source in _MOUNTED or source.endswith((".pem", ".key")) or "/id_" in source:
            yield Finding(CLUSTER, f"{source} would lie on every node", f"file_mounts.{place}", "mount what jobs need")
        elif source in (".", "..", "") or source.endswith("/rayseg"):
            lacking = [name for name in (".git", ".env") if not any(name in pattern for pattern in left_out)]
            if lacking:
                fix = "mount the parts by name, or name these in rsync_exclude"
                yield Finding(CLUSTER, f"{' and '.join(lacking)} would travel", f"file_mounts.{place}", fix)
            what = "Ray hashes all files of the folder at every start, .venv too"
            yield warning(what, f"file_mounts.{place}", "mount the parts by name")


def _distributed(found: Mapping[str, Any]) -> Iterator[Finding]:
    """Check that the token's file comes to the nodes, and from a file of one's own."""
    home = re.compile(r"^(\$HOME|\$\{HOME\}|~)(?=/)")
    mounts = {home.sub("~", str(place)) for place in mapping(found.get("file_mounts"))}
    for who in ("head", "worker"):
        path = home.sub("~", variables(commands(found, who)).get("RAY_AUTH_TOKEN_PATH", ""))
        if path and not any(path == place or path.startswith(f"{place.rstrip('/')}/") for place in mounts):
            fix = f"mount a file of yours there: {path}: ~/.rayseg/cluster-token"
            yield Finding(CLUSTER, f"nothing brings {path} to the {who}", "file_mounts", fix)

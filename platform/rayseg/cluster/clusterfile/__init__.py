"""A cluster's file, looked at before anything is started with it: what is wrong, unsafe or will not work, a line each.

`read` makes plain types of a file, `examine` is pure: plain types in, findings out; no cloud is asked. It knows what
`ray up` reads (AWS, GCP, machines of one's own), KubeRay's RayCluster and RayJob, and an AWS security group's rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayseg.cluster.clusterfile import doors, form, kubernetes, nodes, room
from rayseg.cluster.clusterfile.finding import CLUSTER, FORM, Finding
from rayseg.cluster.clusterfile.reading import read

__all__ = ["CLUSTER", "FORM", "Finding", "examine", "exit_code", "read"]


def examine(found: Any, name: str, *, head_on_spot: bool = False) -> list[Finding]:
    """List what is to say about a cluster's file; `name` is what the findings call it.

    A file whose form is wrong is not looked at further. `head_on_spot` accepts a head that may be taken away.
    """
    return [finding.within(name) for finding in _findings(found, head_on_spot)]


def exit_code(findings: list[Finding]) -> int:
    """Give the code to exit with: 2 where the file's form is wrong, else 5 where it has other errors, else 0."""
    return min((finding.code for finding in findings if finding.is_error), default=0)


def _findings(found: Any, head_on_spot: bool) -> Iterator[Finding]:
    if isinstance(found, dict) and "IpPermissions" in found:
        yield from form.unfilled(found)
        yield from doors.rules(found["IpPermissions"], "IpPermissions")
        return
    on_kubernetes = isinstance(found, dict) and "apiVersion" in found
    wrong = list(kubernetes.form(found) if on_kubernetes else form.form(found))
    yield from wrong
    yield from form.unfilled(found)
    yield from form.secrets(found)
    if wrong:
        return
    if on_kubernetes:
        yield from kubernetes.inside(found, head_on_spot=head_on_spot)
        return
    yield from doors.doors(found)
    yield from nodes.nodes(found, head_on_spot=head_on_spot)
    yield from room.room(found)

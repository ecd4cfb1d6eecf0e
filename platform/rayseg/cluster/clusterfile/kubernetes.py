"""KubeRay's RayCluster and RayJob: their fields as of KubeRay 1.7, who gets in, where runs lie, what grows."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from rayseg.cluster.clusterfile import nodes, room
from rayseg.cluster.clusterfile.finding import CLUSTER, FORM, Finding, items, mapping, warning
from rayseg.errors import nearest
from rayseg.tracking.redact import REDACTED, redact

_CLUSTER = """authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec
    headServiceAnnotations historyServerOptions managedBy networkPolicy rayVersion suspend tlsOptions upgradeStrategy
    workerGroupSpecs"""
_JOB = """activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus
    entrypointNumGpus entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec
    runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend
    ttlSecondsAfterFinished"""
_HEAD = "enableIngress headService ingressOptions labels rayStartParams resources serviceType template"
_WORKER = """groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts priority rayStartParams replicas
    resources scaleStrategy suspend template"""
_SCALER = """args command env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext upscalingMode
    version volumeMounts"""
_SPOT = re.compile(r"spot|preemptible", re.I)


def form(found: Mapping[str, Any]) -> Iterator[Finding]:
    """List what KubeRay would not take, and what it would drop without a word."""
    kind, spec = found.get("kind"), mapping(found.get("spec"))
    if found.get("apiVersion") != "ray.io/v1" or kind not in ("RayCluster", "RayJob"):
        yield Finding(
            FORM, f"a {kind} of {found.get('apiVersion')}", "kind", "give a RayCluster or RayJob of ray.io/v1"
        )
        return
    if not mapping(found.get("metadata")).get("name"):
        yield Finding(FORM, "no name", "metadata", "give metadata.name")
    if kind == "RayJob":
        yield from _keys(spec, _JOB, "spec", ("entrypoint", "rayClusterSpec"))
    cluster, where = cluster_of(found)
    yield from _keys(cluster, _CLUSTER, where, ("headGroupSpec", "workerGroupSpecs"))
    yield from _keys(mapping(cluster.get("authOptions")), "enableK8sTokenAuth mode secretName", f"{where}.authOptions")
    yield from _keys(mapping(cluster.get("autoscalerOptions")), _SCALER, f"{where}.autoscalerOptions")
    yield from _keys(mapping(cluster.get("headGroupSpec")), _HEAD, f"{where}.headGroupSpec", ("template",))
    for group in map(mapping, items(cluster.get("workerGroupSpecs"))):
        place = f"{where}.workerGroupSpecs.{group.get('groupName', '?')}"
        yield from _keys(group, _WORKER, place, ("groupName", "minReplicas", "maxReplicas", "template"))
        least, now, most = (group.get(f"{which}eplicas", 0) for which in ("minR", "r", "maxR"))
        if not all(isinstance(count, int) for count in (least, now, most)) or not 0 <= least <= now <= most:
            what = f"minReplicas {least}, replicas {now}, maxReplicas {most}"
            yield Finding(FORM, what, place, "let each be no larger than the next")


def _keys(given: Mapping[str, Any], known: str, where: str, needed: tuple[str, ...] = ()) -> Iterator[Finding]:
    for key in sorted(given.keys() - set(known.split())):
        yield Finding(FORM, f"unknown key '{key}'", where, nearest(str(key), known.split()))
    for key in needed:
        if key not in given:
            yield Finding(FORM, f"no {key}", where, f"give {where}.{key}")


def cluster_of(found: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Give the cluster's specification and where it stands."""
    spec = mapping(found.get("spec"))
    return (
        (mapping(spec.get("rayClusterSpec")), "spec.rayClusterSpec")
        if found.get("kind") == "RayJob"
        else (spec, "spec")
    )


def inside(found: Mapping[str, Any], *, head_on_spot: bool) -> Iterator[Finding]:
    """List what is unsafe or will not work."""
    cluster, where = cluster_of(found)
    auth = cluster.get("authOptions")
    if not isinstance(auth, dict) or auth.get("mode", "token") != "token":
        yield Finding(CLUSTER, "the cluster asks nobody for a token", f"{where}.authOptions", "mode: token")
    if "networkPolicy" not in cluster:
        what = "any pod of the Kubernetes cluster may connect"
        yield warning(what, f"{where}.networkPolicy", "mode: DenyAllIngress, or a NetworkPolicy of yours")
    ours, theirs = importlib.metadata.version("ray"), str(cluster.get("rayVersion", ""))
    if theirs != ours:
        yield Finding(CLUSTER, f"it runs Ray {theirs or '?'}, this is {ours}", f"{where}.rayVersion", f"set {ours}")
    head = mapping(cluster["headGroupSpec"])
    yield from _head(head, f"{where}.headGroupSpec", head_on_spot)
    workers = [mapping(group) for group in cluster["workerGroupSpecs"]]
    for group, place in [(head, "headGroupSpec"), *((w, f"workerGroupSpecs.{w['groupName']}") for w in workers)]:
        yield from _pod(mapping(mapping(group.get("template")).get("spec")), f"{where}.{place}")
    yield from _growing(cluster, head, workers, where)
    if found["kind"] == "RayJob" and found["spec"].get("shutdownAfterJobFinishes") is not True:
        yield warning("the pods stay when the job is over", "spec.shutdownAfterJobFinishes", "set it to true")


def _head(head: Mapping[str, Any], where: str, head_on_spot: bool) -> Iterator[Finding]:
    params = mapping(head.get("rayStartParams"))
    if str(params.get("num-cpus")) != "0" or str(params.get("num-gpus", "0")) != "0":
        what = "trials would run on the head too, beside every driver"
        yield warning(what, f"{where}.rayStartParams", 'num-cpus: "0", num-gpus: "0"')
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        yield Finding(CLUSTER, "the head's service is open to the outside", where, "serviceType: ClusterIP, no ingress")
    pod = mapping(mapping(head.get("template")).get("spec"))
    drawn = str([pod.get("nodeSelector"), pod.get("tolerations")])
    if _SPOT.search(drawn.replace("FILL_IN", "")) and not head_on_spot:
        fix = "keep it off spot nodes, or say --head-on-spot"
        yield Finding(CLUSTER, "the head may be taken away, and every sweep with it", where, fix)


def _pod(pod: Mapping[str, Any], where: str) -> Iterator[Finding]:
    if pod.get("hostNetwork") or pod.get("hostPID"):
        yield Finding(CLUSTER, "it sees the whole node", where, "drop hostNetwork and hostPID")
    for container in map(mapping, items(pod.get("containers"))):
        image = str(container.get("image"))
        if not nodes.PINNED.search(image):
            yield Finding(CLUSTER, f"'{image}' may be another image tomorrow", where, "name its @sha256: digest")
        if mapping(container.get("securityContext")).get("privileged"):
            yield Finding(CLUSTER, "a privileged container", where, "drop it: the device plugin brings GPUs")
        for entry in map(mapping, items(container.get("env"))):
            if redact(entry.get("value", ""), str(entry.get("name"))) == REDACTED and entry.get("value"):
                fix = "take it from a secret: valueFrom.secretKeyRef"
                yield Finding(CLUSTER, f"{entry['name']} stands in the file", f"{where}.env", fix)
    said = _environment(pod)
    mounted = [mapping(m) for c in items(pod.get("containers")) for m in items(mapping(c).get("volumeMounts"))]
    lasting = {
        v.get("name") for v in map(mapping, items(pod.get("volumes"))) if {"persistentVolumeClaim", "nfs"} & v.keys()
    }
    places = [PurePosixPath(str(m.get("mountPath"))) for m in mounted if m.get("name") in lasting]
    yield from room.storage(said, places, f"{where}.env")


def _environment(pod: Mapping[str, Any]) -> dict[str, str]:
    entries = [mapping(e) for c in items(pod.get("containers")) for e in items(mapping(c).get("env"))]
    return {str(entry.get("name")): str(entry["value"]) for entry in entries if "value" in entry}


def _growing(
    cluster: Mapping[str, Any], head: Mapping[str, Any], workers: list[dict[str, Any]], where: str
) -> Iterator[Finding]:
    said = _environment(mapping(mapping(head.get("template")).get("spec")))
    yield from room.tracking(said, f"{where}.headGroupSpec.env")
    grown = {"CPU": 0, "GPU": 0}
    for group in workers:
        has = mapping(mapping(items(group["template"]["spec"].get("containers"))[0]).get("resources"))
        asked = mapping(has.get("requests")) | mapping(has.get("limits"))
        grown["CPU"] += group["maxReplicas"] * int(str(asked.get("cpu", 0)).rstrip("m") or 0)
        grown["GPU"] += group["maxReplicas"] * int(asked.get("nvidia.com/gpu", 0))
    grown = {name: size for name, size in grown.items() if size}
    if not grown:
        yield Finding(
            CLUSTER, "no pod could ever run a trial", f"{where}.workerGroupSpecs", "give maxReplicas and limits"
        )
    elif cluster.get("enableInTreeAutoscaling"):
        yield from room.promised(said.get("RAYSEG_GROWS_TO"), grown, f"{where}.headGroupSpec.env")
    else:
        yield warning("it never grows nor shrinks", f"{where}.enableInTreeAutoscaling", "set it to true")

"""The form of a file for `ray up`: Ray's own schema and what its code checks beyond that; blanks; secrets in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rayseg.cluster.clusterfile.finding import CLUSTER, FORM, Finding, mapping, texts, warning
from rayseg.errors import nearest
from rayseg.tracking.redact import REDACTED, redact

PROVIDERS = ("aws", "gcp", "local", "azure", "aliyun", "vsphere", "external")
LOOKED_AT = ("aws", "gcp", "local")
START = Path("cluster.yaml")
_BLANK = re.compile(r"FILL_IN_([A-Za-z0-9_]+)")
_KEYS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|aws_secret_access_key|AWS_SECRET_ACCESS_KEY\s*=\s*[^\s$]|\"private_key\"\s*:", re.I
)
_TOKEN = re.compile(r"\b(?:RAY_AUTH_TOKEN|\w*_(?:PASSWORD|SECRET_KEY|TOKEN))=(?![\"']?\$|[\"']?FILL_IN)[^\s;]")


def form(found: Any) -> Iterator[Finding]:
    """List what Ray itself would not take."""
    if not isinstance(found, Mapping):
        yield Finding(FORM, f"a {type(found).__name__}, not a mapping of keys", "", "begin with a copy of cluster.yaml")
        return
    faults = list(_against_schema(found))
    yield from faults
    if not faults:
        yield from _provider(found)
        yield from _types(found)


@cache
def schema() -> dict[str, Any]:
    """Read the schema that the installed Ray has."""
    spec = find_spec("ray")
    assert spec is not None, "ray is a dependency"
    assert spec.origin is not None
    found: dict[str, Any] = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    return found


def _against_schema(found: Any) -> Iterator[Finding]:
    import jsonschema

    for error in jsonschema.Draft7Validator(schema()).iter_errors(found):
        where = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "additionalProperties":
            valid = error.schema["properties"]
            for key in sorted(set(error.instance) - valid.keys()):
                yield Finding(FORM, f"unknown key '{key}'", where, nearest(str(key), valid))
        elif error.validator == "required":
            missing = sorted(set(error.validator_value) - error.instance.keys())
            yield Finding(FORM, f"no {missing[0]}", where, f"give {', '.join(missing)}")
        else:
            said = " ".join(error.message.split())
            yield Finding(FORM, said if len(said) < 120 else f"{said[:117]}...", where, f"see Ray's {error.validator}")


def _provider(found: Mapping[str, Any]) -> Iterator[Finding]:
    provider = found["provider"]
    kind = provider["type"]
    if kind not in PROVIDERS:
        yield Finding(FORM, f"no provider '{kind}'", "provider.type", nearest(kind, PROVIDERS))
    elif kind not in LOOKED_AT:
        yield warning(f"what is particular to {kind} is not looked at", "provider.type", "compare it with cluster.yaml")
    needed = {"aws": ["region"], "gcp": ["region", "project_id", "availability_zone"]}.get(kind, [])
    if kind == "local" and "coordinator_address" not in provider:
        needed = ["head_ip", "worker_ips"]
    for name in needed:
        if not provider.get(name):
            yield Finding(FORM, f"no {name}", "provider", f"give provider.{name}")
    if kind == "local" and (ignored := [key for key in ("available_node_types", "head_node_type") if key in found]):
        yield Finding(FORM, "machines of your own have no node types", ignored[0], "drop it")


def _types(found: Mapping[str, Any]) -> Iterator[Finding]:
    kinds = mapping(found.get("available_node_types"))
    if found["provider"]["type"] == "local":
        return
    if not kinds:
        yield Finding(FORM, "no node types", "available_node_types", "give a head's and a worker's")
        return
    if (head := found.get("head_node_type")) not in kinds:
        yield Finding(FORM, f"no node type '{head}'", "head_node_type", nearest(str(head), kinds))
    most = found.get("max_workers", 2)
    for name, kind in kinds.items():
        least, own, where = kind.get("min_workers", 0), kind.get("max_workers"), f"available_node_types.{name}"
        if least < 0 or (own or 0) < 0:
            yield Finding(FORM, "less than no node", where, "give 0 or more")
        if own is not None and least > own:
            yield Finding(
                FORM, f"min_workers {least} > max_workers {own}", where, "raise max_workers or lower min_workers"
            )
    if (total := sum(kind.get("min_workers", 0) for kind in kinds.values())) > most:
        what = f"the types' min_workers are {total} together, max_workers is {most}"
        yield Finding(FORM, what, "max_workers", f"raise it to {total}, or lower theirs")


def unfilled(found: Any) -> Iterator[Finding]:
    """List the blanks that are still to be filled in, each where it first stands."""
    seen = set()
    for where, text in texts(found):
        for blank in _BLANK.findall(text):
            if blank not in seen:
                seen.add(blank)
                wanted = blank.replace("_", " ").strip()
                yield Finding(
                    FORM, f"not filled in: {wanted}", where, "write it there; docs/cluster/README.md says how"
                )


def secrets(found: Any) -> Iterator[Finding]:
    """List secrets that stand in the file itself; none is repeated."""
    given = mapping(mapping(found).get("provider")).get("aws_credentials")
    if given:
        yield Finding(CLUSTER, "keys in the file", "provider.aws_credentials", "use a profile, and roles on the nodes")
    for where, text in texts(found):
        if _TOKEN.search(text):
            fix = "keep it in a file (0600), mount that, and read it with $(cat FILE) or by its _PATH"
            yield Finding(CLUSTER, "a token or password in the file", where, fix)
        elif _KEYS.search(text) or REDACTED in str(redact(text)):
            yield Finding(CLUSTER, "a key in the file", where, "give the nodes a role, and take the key out of use")

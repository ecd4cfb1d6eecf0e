"""What a Ray client needs to reach the local stack, and how the plain `ray` command gets it in a fresh shell.

Ray's clients send no token unless RAY_AUTH_MODE=token stands in their environment, and guess the cluster where several
run; there is no file in which one could tell them. So `rayseg up` leaves one line in the environment's site-packages
(a .pth file) that runs `adopt` when, and only when, the program is this environment's own `ray`. Tried and dropped:
~/.ray/auth_token (not read by clients, and the user's own), RAY_JOB_SUBMIT_HOOK (needs an environment itself, and its
answer is ignored), a wrapper in place of the `ray` script (the next install removes it).

Standard library only: it runs before `ray` itself.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayseg.cluster import home

COMMANDS = frozenset({"job", "status", "list", "get", "summary", "logs", "memory"})
"""The commands that talk to a cluster; `ray start` and `ray stop` stay as they are."""

TARGETS = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
PTH_NAME = "rayseg-ray-client.pth"
PTH_LINE = (
    'import sys; exec(\'try:\\n if sys.orig_argv[1:] and sys.orig_argv[1].endswith("/ray"):\\n'
    "  from rayseg.cluster.client_env import adopt\\n  adopt()\\nexcept Exception:\\n pass')\n"
)


def variables(record: Mapping[str, Any]) -> dict[str, str]:
    """Give the environment of a client of the stack that stack.json describes."""
    direct = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1,localhost"]))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(record["token_path"]),
        "RAY_API_SERVER_ADDRESS": str(record["dashboard_uri"]),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else 127.0.0.1 is taken for this machine's routable address
        "RAY_ADDRESS": str(record["ray_address"]),
        "no_proxy": direct,
        "NO_PROXY": direct,
    }


def for_command(arguments: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Give what `ray <arguments>` lacks to reach the stack: nothing where none is up or another cluster is meant."""
    record = home.stack_record()
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command not in COMMANDS or not record or not home.part_exists(record, "ray"):
        return {}
    wanted = variables(record)
    target = next((environ[name] for name in TARGETS if environ.get(name)), None) or _address_option(arguments)
    if target not in (None, "auto") and _plain(target) not in {_plain(wanted[name]) for name in TARGETS}:
        return {}  # the token is not for others, and RAY_API_SERVER_ADDRESS would overrule --address
    return {name: value for name, value in wanted.items() if not environ.get(name) or "proxy" in name.lower()}


def adopt() -> None:
    """Complete this process's environment if it is this Python environment's `ray` command. Never raises."""
    try:
        program, *arguments = sys.orig_argv[1:]
        beside = os.path.realpath(os.path.dirname(program)) == os.path.realpath(os.path.dirname(sys.executable))
        if beside and os.path.basename(program) == "ray":
            os.environ.update(for_command(arguments, os.environ))
    except Exception:  # a broken record must not break `ray`, whose own message says what is missing
        return


def install() -> Path | None:
    """Leave the .pth line in site-packages, once; None where that cannot be written."""
    path = Path(sysconfig.get_path("purelib")) / PTH_NAME
    try:
        if not path.exists() or path.read_text() != PTH_LINE:
            path.write_text(PTH_LINE)
    except OSError:
        return None
    return path


def _plain(address: str | None) -> str:
    return (address or "").removeprefix("http://").rstrip("/").replace("localhost", "127.0.0.1")


def _address_option(arguments: Sequence[str]) -> str | None:
    for place, word in enumerate(arguments):
        if word == "--":
            return None
        if word.startswith("--address="):
            return word.partition("=")[2]
        if word == "--address":
            return "".join(arguments[place + 1 : place + 2])
    return None

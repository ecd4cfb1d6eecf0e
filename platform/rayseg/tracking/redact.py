"""Secrets stay out of what a run writes down: one function, applied before the first byte reaches the disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
_NAMES = re.compile(r"token|secret|password|passwd|credential|api_?key|private_?key|key_id|^aws_", re.IGNORECASE)
_VALUES = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{8,}"  # AWS
    r"|\bhf_[A-Za-z0-9]{8,}"  # Hugging Face
    r"|\b(?:gh[pousr]|github_pat)_\w{8,}"  # GitHub
    r"|(?<=://)[^/\s]+(?=@)"  # user:password@ of an address
    r"|(?<=[?&])(?:[^=&\s]*(?:token|secret|password|signature|key)[^=&\s]*)=[^&\s]+",  # a signed address
    re.IGNORECASE,
)


def redact(value: Any, name: str = "") -> Any:
    """Give plain nested types without what looks like a secret, by the name it has or by its own form.

    A name such as `hub_token`, `AWS_REGION` or `access_key_id` hides whatever stands under it.
    """
    if _NAMES.search(name):
        return REDACTED
    if isinstance(value, Mapping):
        return {key: redact(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    return _VALUES.sub(REDACTED, value) if isinstance(value, str) else value

"""Ask an HTTP server one question, without a proxy and within a time limit: is it there, does it want a token?"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from rayseg.schema import Value

# A proxy from the environment would be asked for 127.0.0.1 too.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Answer(Value):
    """The HTTP status, 0 when nobody answered, and the body's text."""

    status: int
    body: str = ""

    def parsed(self) -> Any:
        """Parse the body; None when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def get(url: str, *, token: str | None = None, timeout_s: float = 5.0) -> Answer:
    """Send one GET, with the token as bearer if given. Never raises for what the network or the server does."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with _DIRECT.open(request, timeout=timeout_s) as response:
            return Answer(status=response.status, body=response.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(status=error.code, body=error.read().decode(errors="replace"))
    except (OSError, ValueError) as error:
        return Answer(status=0, body=str(error))

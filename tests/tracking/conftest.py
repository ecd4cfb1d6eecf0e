"""A real MLflow server on a free port of loopback, and a proxy before it that fails on demand."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from rayseg.tracking import mlflow_run
from rayseg.tracking.server import healthy, server_command

Fate = Literal["pass", "refuse", "lose"]
"""What the proxy does with a request: pass it on; answer 500; pass it on and answer 500 all the same."""

Judge = Callable[[str], Fate]
"""Decides by the request's path."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """The server that `server_command` describes, in a session of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv, environment = server_command(self.home, self.port)
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        assert healthy(self.uri, 120), (self.home / "server.log").read_text()

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, how)
        self.process.wait(30)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("a home"))
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="session")
def client(server: Server) -> Any:
    return mlflow_run.client(server.uri)


class Proxy:
    """Hands requests to `uri`; `fate(path)` says what becomes of each. Nobody listens before `start`."""

    def __init__(self, uri: str) -> None:
        self.target = urllib.parse.urlsplit(uri).netloc
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.fate: Judge = lambda path: "pass"
        self.asked = 0
        self.http: ThreadingHTTPServer | None = None

    def start(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fate, proxy.asked = proxy.fate(self.path), proxy.asked + 1
                status, answer = 500, b'{"error_code": "INTERNAL_ERROR", "message": "the test says so"}'
                if fate != "refuse":
                    onward = http.client.HTTPConnection(proxy.target, timeout=20)
                    onward.request(self.command, self.path, body, dict(self.headers))
                    response = onward.getresponse()
                    content = response.read()
                    onward.close()
                    if fate == "pass":
                        status, answer = response.status, content
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self.http is not None:
            self.http.shutdown()
            self.http.server_close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.uri)
    yield proxy
    proxy.stop()

"""A small client of the API server, behind `kubectl proxy`, which logs in."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Any

Object = dict[str, Any]

CORE, ARGO = "/api/v1", "/apis/argoproj.io/v1alpha1"
TIMEOUT, WATCH = 60, 300  # seconds


class RefusedError(Exception):
    """The API server has refused a request."""


class Api:
    """The API server, with one connection per thread."""

    def __init__(self, address: str) -> None:
        self.host, self.local = address.removeprefix("http://"), threading.local()

    def ask(self, method: str, path: str, body: Object | None = None) -> bytes:
        """Return the answer to a request. Retry if this can help. Raises RefusedError."""
        patch = "merge-patch+json" if path.startswith(ARGO) else "strategic-merge-patch+json"
        head = {"Content-Type": f"application/{patch if method == 'PATCH' else 'json'}"}
        delay = 1
        while True:
            with suppress(OSError, HTTPException):
                # Not kept if this request fails.
                connection = self.local.__dict__.pop("connection", None)
                connection = connection or HTTPConnection(self.host, timeout=TIMEOUT)
                connection.request(method, path, json.dumps(body) if body else None, head)
                answer = connection.getresponse()
                text: bytes = answer.read()
                self.local.connection = connection
                if answer.status < 400:
                    return text
                if answer.status != 429 and answer.status < 500:
                    raise RefusedError(f"{method} {path}: {text.decode(errors='replace')}")
            time.sleep(delay)
            delay = min(2 * delay, 30)

    def watch(self, path: str) -> Iterator[tuple[str, Object]]:
        """Yield the existing objects, then their events, for a few minutes."""
        connection = HTTPConnection(self.host, timeout=WATCH + TIMEOUT)
        with suppress(OSError, HTTPException, ValueError):
            connection.request("GET", f"{path}&watch=true&timeoutSeconds={WATCH}")
            for line in connection.getresponse():
                event = json.loads(line)
                yield event["type"], event["object"]
        connection.close()
        time.sleep(1)  # before the next watch, which may fail immediately, too

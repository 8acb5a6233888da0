"""Faults and counters: rules that a test sets, and counters that it reads."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

Fault = Literal[
    "latency",  # `seconds` before the first byte
    "bandwidth",  # `rate` bytes per second, on this connection, up and down
    "reset",  # the connection is reset instead of an answer
    "error",  # `status` and `code` instead of an answer
    "truncate",  # the connection ends after `at` bytes of the body
    "stall",  # `seconds` without a byte after `at` bytes of the body
    "flip",  # one bit of the body is wrong at `at`; in an upload, of the stored bytes
    "crc",  # x-oss-hash-crc64ecma is wrong
]


@dataclass
class Rule:
    """A fault, and its requests: requests with this operation, method and key; of these only the
    `nth` (from 1), or a `share` by the rule's own dice, and at most `times`. With `after` the
    request is executed first."""

    fault: Fault
    operation: str = "*"
    method: str = "*"
    key: str = "*"
    nth: int = 0
    share: float = 1.0
    seed: int = 0
    times: int = 0
    after: bool = False
    seconds: float = 0.0
    rate: float = 0.0
    at: int = 0
    status: int = 503
    code: str = "ServiceUnavailable"
    seen: int = field(default=0, init=False)
    used: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Create the dice: the same requests are chosen every time."""
        self.dice = random.Random(self.seed)

    def applies(self, operation: str, method: str, key: str) -> bool:
        """Count this request, and return whether the fault occurs."""
        if not (
            fnmatchcase(operation, self.operation)
            and fnmatchcase(method, self.method)
            and fnmatchcase(key, self.key)
        ):
            return False
        self.seen += 1
        if (self.nth and self.seen != self.nth) or (self.times and self.used == self.times):
            return False
        if self.share < 1 and self.dice.random() >= self.share:
            return False
        self.used += 1
        return True


class Faults:
    """The active rules, and their effect on requests."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.lock = threading.Lock()

    def add(self, fault: Fault, **rest: Any) -> Rule:
        """Add a rule."""
        rule = Rule(fault, **rest)
        with self.lock:
            self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Remove all rules."""
        with self.lock:
            self.rules = []

    def strike(self, operation: str, method: str, key: str) -> list[Rule]:
        """Return the rules that apply to this request."""
        with self.lock:
            return [rule for rule in self.rules if rule.applies(operation, method, key)]


class Counters:
    """Counts requests since the last reset, and the bytes of bodies, by operation and key. A
    request from before the reset, such as a stalled one, does not count."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = self.resets = 0
        self.reset()

    def reset(self) -> None:
        """Start from zero."""
        with self.lock:
            self.requests: Counter[str] = Counter()
            self.down: Counter[str] = Counter()
            self.up: Counter[str] = Counter()
            self.down_by_key: Counter[str] = Counter()
            self.up_by_key: Counter[str] = Counter()
            self.most_open, self.most_busy, self.busy = self.open, 0, 0
            self.resets += 1

    def connection(self, change: int) -> None:
        """Count a connection that is opened or closed."""
        with self.lock:
            self.open += change
            self.most_open = max(self.most_open, self.open)

    def begin(self, operation: str) -> int:
        """Count a request; return the argument for end()."""
        with self.lock:
            self.requests[operation] += 1
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            return self.resets

    def end(self, begun: int, operation: str, key: str, up: int, down: int) -> None:
        """Count the end of a request."""
        with self.lock:
            if begun != self.resets:
                return
            self.busy -= 1
            self.up[operation] += up
            self.down[operation] += down
            if key:
                self.up_by_key[key] += up
                self.down_by_key[key] += down

    def read(self) -> dict[str, Any]:
        """Return all counters."""
        with self.lock:
            return {
                "requests": dict(self.requests),
                "down": dict(self.down),
                "up": dict(self.up),
                "down_by_key": dict(self.down_by_key),
                "up_by_key": dict(self.up_by_key),
                "most_connections": self.most_open,
                "most_requests_at_once": self.most_busy,
            }

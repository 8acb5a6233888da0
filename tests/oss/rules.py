"""What goes wrong, and what was asked for: rules that a test sets, and counters that it reads."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

Fault = Literal[
    "latency",  # `seconds` before the first byte
    "bandwidth",  # `rate` bytes a second, on this connection, up and down
    "reset",  # the connection is reset instead of an answer
    "error",  # `status` and `code` instead of an answer
    "truncate",  # the connection ends after `at` bytes of the body
    "stall",  # `seconds` without a byte after `at` bytes of the body
    "flip",  # one bit of the body is wrong at `at`: of what is stored for an upload
    "crc",  # x-oss-hash-crc64ecma is wrong
]


@dataclass
class Rule:
    """A fault, and the requests that it is for: those whose operation, method and key fit, of
    these the `nth` only (from 1) or a `share` by a dice of its own, and at most `times`. With
    `after` what was asked for is done first."""

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
        """A dice of its own: what strikes is the same every time."""
        self.dice = random.Random(self.seed)

    def applies(self, operation: str, method: str, key: str) -> bool:
        """Whether it strikes this request; counts it."""
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
    """The rules in force and those of them that strike."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.lock = threading.Lock()

    def add(self, fault: Fault, **rest: Any) -> Rule:
        """One rule more."""
        rule = Rule(fault, **rest)
        with self.lock:
            self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Peace."""
        with self.lock:
            self.rules = []

    def strike(self, operation: str, method: str, key: str) -> list[Rule]:
        """The rules that this request meets."""
        with self.lock:
            return [rule for rule in self.rules if rule.applies(operation, method, key)]


class Counters:
    """What was asked for since the last reset: bytes are those of bodies, by operation and key. A
    request from before, such as one that is stalled, does not count."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = self.resets = 0
        self.reset()

    def reset(self) -> None:
        """From zero."""
        with self.lock:
            self.requests: Counter[str] = Counter()
            self.down: Counter[str] = Counter()
            self.up: Counter[str] = Counter()
            self.down_by_key: Counter[str] = Counter()
            self.up_by_key: Counter[str] = Counter()
            self.most_open, self.most_busy, self.busy = self.open, 0, 0
            self.resets += 1

    def connection(self, change: int) -> None:
        """A connection more or less."""
        with self.lock:
            self.open += change
            self.most_open = max(self.most_open, self.open)

    def begin(self, operation: str) -> int:
        """A request came in; return what end() has to be given."""
        with self.lock:
            self.requests[operation] += 1
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            return self.resets

    def end(self, begun: int, operation: str, key: str, up: int, down: int) -> None:
        """It is answered, or given up."""
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
        """All of them, as they are now."""
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

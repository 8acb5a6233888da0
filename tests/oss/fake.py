"""A fake OSS over HTTP, for tests: the known rules of OSS, and its faults.

    with FakeOSS(keys=[Key("id", "secret")]) as fake:
        bucket = oss2.Bucket(oss2.AuthV4("id", "secret"), fake.endpoint, "bucket", region=...)
        fake.faults.add("error", operation="GetObject", nth=2)

or a program, for pods:

    python fake.py --host 0.0.0.0 --port 9000 --root DIR --bucket NAME --region R --key ID:SECRET

with its faults at /-/faults and its counters at /-/counters.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import secrets
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from types import TracebackType
from typing import Any, BinaryIO, NoReturn
from urllib.parse import parse_qsl, unquote

from messages import Answer, OssError, Request, document
from objects import CHUNK, Bucket, Piece
from operations import Limits, Service, asked_for
from rules import Counters, Faults, Rule
from signature import Key
from sts import METADATA, NODE_TOKEN, TokenService

RESERVED = "/-/"  # no bucket can have this name
PATIENCE = 300.0  # seconds for an idle connection


class HangUp(Exception):  # noqa: N818 (an order, not an error)
    """End this connection, with a reset or normally."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class FakeOSS:
    """The server, and its interface for tests."""

    def __init__(
        self,
        *,
        root: Path | None = None,
        buckets: Iterable[str] = ("bucket",),
        region: str = "cn-hangzhou",
        keys: Iterable[Key] = (Key("id", "secret"),),
        limits: Limits | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        domain: str = "oss.test",
    ) -> None:
        self.service = Service(region, limits or Limits())
        self.service.keys.update((key.id, key) for key in keys)
        self.sts = TokenService(self.service.keys)
        self.faults, self.counters = Faults(), Counters()
        self.domain = domain  # BUCKET.domain is a bucket's host
        self.own_domains: dict[str, str] = {}  # buckets by their own domains (CNAME)
        self.closing = threading.Event()
        self.errors: list[str] = []
        self._root = Path(tempfile.mkdtemp(prefix="oss-", dir=root))
        for name in buckets:
            self.add_bucket(name)
        self._server = _Server((host, port), self)
        self.endpoint = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])

    def add_bucket(self, name: str, region: str | None = None) -> Bucket:
        """Add a bucket, of this region or another."""
        region = region or self.service.region
        bucket = self.service.buckets[name] = Bucket(name, region, self._root / name)
        return bucket

    def bucket(self, name: str = "bucket") -> Bucket:
        """Return a bucket: .objects, .uploads, .get(key), .put(key, data)."""
        return self.service.buckets[name]

    def add_key(self, key: Key) -> Key:
        """Add a key."""
        self.service.keys[key.id] = key
        return key

    def uploads(self) -> dict[str, list[str]]:
        """Return the keys of all open uploads, by bucket."""
        return {
            bucket.name: sorted(upload.key for upload in bucket.uploads.values())
            for bucket in self.service.buckets.values()
            if bucket.uploads
        }

    def __enter__(self) -> FakeOSS:
        """Start to serve."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all connections, remove the files, and report errors of the server."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        shutil.rmtree(self._root, ignore_errors=True)
        if self.errors and error is None:
            raise AssertionError("the fake failed: " + "\n".join(self.errors))


class _Server(ThreadingTCPServer):
    """Uses one thread per connection. All threads end with the server."""

    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], fake: FakeOSS) -> None:
        self.fake = fake
        self.connections: set[Any] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Register a connection before its thread runs."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close without a FIN first, so that a reset is a reset."""
        self.connections.discard(request)
        self.close_request(request)

    def server_close(self) -> None:
        """Close open connections, then wait for their threads."""
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that hangs up. Other errors are bugs of the server."""
        if not isinstance(sys.exception(), OSError):
            self.fake.errors.append(traceback.format_exc())
            traceback.print_exc()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        """Count the connection."""
        super().setup()
        self.fake = self.server.fake
        self.fake.counters.connection(1)

    def finish(self) -> None:
        """Count the end of the connection."""
        self.fake.counters.connection(-1)
        super().finish()

    def log_message(self, *args: object) -> None:
        """Print nothing: the counters have more."""

    def serve(self) -> None:
        """Handle one request."""
        self.up = self.down = 0
        self.id = secrets.token_hex(12).upper()
        self.strikes: list[Rule] = []
        self.counted: Callable[[], None] | None = None
        self.body = self._body()
        try:
            if self.path.startswith(RESERVED):
                self._send(self._control())
            else:
                self._carry_out(self._request())
        except HangUp as hang_up:
            self.close_connection = True
            if hang_up.reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815

    def _request(self) -> Request:
        # A proxy receives a complete address: so names without a DNS entry are served.
        target = re.sub("^http://[^/]*", "", self.path)
        path, _, query = target.partition("?")
        path = unquote(path, errors="surrogateescape")[1:]
        headers = {
            name.lower(): value.encode("latin-1").decode("utf-8", "surrogateescape")
            for name, value in self.headers.items()
        }
        host = headers.get("host", "").rsplit(":", 1)[0]
        bucket = self.fake.own_domains.get(host) or host.removesuffix("." + self.fake.domain)
        bucket, key = (bucket, path) if bucket != host else path.partition("/")[::2]
        pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
        return Request(self.command, host, bucket, key, dict(pairs), headers, self.body)

    def _carry_out(self, request: Request) -> None:
        fake = self.fake
        name, act = self._meaning(request)
        self.strikes = fake.faults.strike(name, request.method, request.key)
        begun = fake.counters.begin(name)
        self.counted = lambda: fake.counters.end(begun, name, request.key, self.up, self.down)
        try:
            try:
                self._meet(after=False)
                answer = act()
                self._meet(after=True)
            except OssError as error:
                answer = self._refusal(error, request)
            for _ in self.body:  # unread bytes come before the next request
                pass
            self._send(answer)
        finally:
            self._done()

    def _meaning(self, request: Request) -> tuple[str, Callable[[], Answer]]:
        fake = self.fake
        path = f"/{request.bucket}/{request.key}"
        if path.startswith((METADATA, NODE_TOKEN)):
            return "Metadata", lambda: fake.sts.metadata(request)
        if request.method == "POST" and not request.bucket:
            return "AssumeRoleWithOIDC", lambda: fake.sts.assume_role(
                request.query | dict(parse_qsl(b"".join(self.body).decode()))
            )
        operation = asked_for(request)

        def act() -> Answer:
            if request.host == fake.domain:
                raise OssError("SecondLevelDomainForbidden")
            return fake.service.answer(operation, request)

        return operation.name, act

    def _meet(self, *, after: bool) -> None:
        for rule in self.strikes:
            if rule.after != after:
                continue
            if rule.fault == "latency":
                self._wait(rule.seconds)
            elif rule.fault == "reset":
                raise HangUp(reset=True)
            elif rule.fault == "error":
                raise OssError(rule.code, status=rule.status)

    def _wait(self, seconds: float) -> None:
        if seconds > 0 and self.fake.closing.wait(seconds):
            raise HangUp(reset=True)

    def _refusal(self, error: OssError, request: Request) -> Answer:
        tree = {"Code": error.code, "Message": error.message, "RequestId": self.id}
        tree |= {"HostId": request.headers.get("host", "")} | error.fields
        if error.ec:
            tree["EC"] = error.ec
            tree["RecommendDoc"] = f"https://api.aliyun.com/troubleshoot?q={error.ec}"
        answer = document("Error", tree, error.status)
        answer.headers["x-oss-ec"] = error.ec
        if request.method == "HEAD":  # it has no body
            assert isinstance(answer.body, bytes)
            answer.headers["x-oss-err"] = base64.b64encode(answer.body).decode()
        return answer

    def _body(self) -> Iterator[bytes]:
        """Yield the body of the request, as it arrives."""
        started = time.monotonic()
        for data in self._chunks():
            came = data
            for rule in self.strikes:
                if rule.fault == "flip" and self.up <= rule.at < self.up + len(data):
                    came = flipped(data, rule.at - self.up)
                elif rule.fault == "bandwidth":
                    self._wait(started + (self.up + len(data)) / rule.rate - time.monotonic())
            self.up += len(data)
            yield came

    def _chunks(self) -> Iterator[bytes]:
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        size = -1
        while size:
            if chunked:
                size = int(self.rfile.readline(100) or self._gone(), 16)
            else:
                size = int(self.headers["Content-Length"] or 0)
            for start in range(0, size, CHUNK):
                data = self.rfile.read(min(size - start, CHUNK))
                if len(data) < min(size - start, CHUNK):
                    self._gone()
                yield data
            if not chunked:
                return
            self.rfile.readline(100)

    def _done(self) -> None:
        # Count before the last byte: a client with the whole body then finds it counted.
        if self.counted:
            self.counted()
            self.counted = None

    def _gone(self) -> NoReturn:
        raise ConnectionError("the client hung up")

    def _send(self, answer: Answer) -> None:
        body = answer.body
        size = len(body) if isinstance(body, bytes) else sum(piece.length for piece in body)
        headers = {
            "Server": "AliyunOSS",
            "Date": formatdate(usegmt=True),
            "x-oss-request-id": self.id,
            "x-oss-server-time": "1",
            **answer.headers,
        }
        bare = answer.status in (204, 304)
        if not bare:
            headers["Content-Length"] = str(size)
        crc = headers.get("x-oss-hash-crc64ecma")
        if crc and any(rule.fault == "crc" for rule in self.strikes):
            headers["x-oss-hash-crc64ecma"] = str(int(crc) ^ 1)
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value]
        if self.command == "HEAD" or bare or not size:
            self._done()
            body = b""
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
        self._send_body(body, size)

    def _send_body(self, body: bytes | tuple[Piece, ...], total: int) -> None:
        """Send with sendfile, in chunks that end where a fault occurs."""
        strikes = [rule for rule in self.strikes if rule.fault in ("truncate", "stall", "flip")]
        if self.command in ("PUT", "POST"):  # there the request is flipped
            strikes = [rule for rule in strikes if rule.fault != "flip"]
        rate = min((rule.rate for rule in self.strikes if rule.fault == "bandwidth"), default=0)
        started = time.monotonic()
        for file, offset, length in opened(body):
            at, end = offset, offset + length
            while at < end:
                ahead = [rule.at - self.down for rule in strikes if rule.at > self.down]
                size = min(end - at, CHUNK, *ahead)
                here = {rule.fault: rule for rule in strikes if rule.at == self.down}
                if "truncate" in here:
                    raise HangUp(reset=False)
                if "stall" in here:
                    self._wait(here["stall"].seconds)
                if "flip" in here:
                    size = 1
                if rate:
                    self._wait(started + (self.down + size) / rate - time.monotonic())
                self.down += size
                if self.down == total:
                    self._done()
                if "flip" in here:
                    file.seek(at)
                    self.connection.sendall(flipped(file.read(1), 0))
                else:
                    self.connection.sendfile(file, at, size)
                at += size

    def _control(self) -> Answer:
        """The reserved path, for tests in another process."""
        fake, answer = self.fake, Answer(200, {"Content-Type": "application/json"})
        given = json.loads(b"".join(self.body) or b"[]")
        match self.command, self.path.removeprefix(RESERVED):
            case "GET", "counters":
                answer.body = json.dumps(
                    fake.counters.read() | {"uploads": fake.uploads()}
                ).encode()
            case "DELETE", "counters":
                fake.counters.reset()
            case "POST", "faults":
                for rule in given:
                    fake.faults.add(**rule)
            case "GET", "faults":
                answer.body = json.dumps([asdict(rule) for rule in fake.faults.rules]).encode()
            case "DELETE", "faults":
                fake.faults.clear()
            case _:
                answer.status = 404
        return answer


def opened(body: bytes | tuple[Piece, ...]) -> Iterator[tuple[BinaryIO, int, int]]:
    """Return the file and offset of a body."""
    if isinstance(body, bytes):
        yield io.BytesIO(body), 0, len(body)
        return
    for blob, offset, length in body:
        with blob.path.open("rb") as file:
            yield file, offset, length


def flipped(data: bytes, at: int) -> bytes:
    """Return the bytes with one bit flipped."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description="A fake OSS, for tests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--root", type=Path, help="folder for the objects' bytes while it runs")
    parser.add_argument("--bucket", action="append", required=True)
    parser.add_argument("--region", default="cn-hangzhou")
    parser.add_argument("--key", action="append", default=[], metavar="ID:SECRET")
    given = parser.parse_args(argv)
    if wrong := [key for key in given.key if not re.fullmatch("[^:]+:.+", key)]:
        parser.error(f"--key is {wrong[0]!r}, which is not ID:SECRET")
    keys = [Key(*key.split(":", 1)) for key in given.key] or [Key("id", "secret")]
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    with FakeOSS(
        root=given.root,
        buckets=given.bucket,
        region=given.region,
        keys=keys,
        host=given.host,
        port=given.port,
    ) as fake:
        print(f"serving {', '.join(given.bucket)} at {fake.endpoint}", flush=True)
        end.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Sources of temporary keys: AssumeRoleWithOIDC, and the metadata of a node."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping

from messages import Answer, Request, document, stamp
from signature import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from messages import Tree

METADATA = "/latest/meta-data/ram/security-credentials/"
NODE_TOKEN = "/latest/api/token"  # noqa: S105 (an address)
TTL, SHOWN = "x-aliyun-ecs-metadata-token-ttl-seconds", "x-aliyun-ecs-metadata-token"
NEEDED = ["Action", "Version", "Timestamp", "RoleArn", "OIDCProviderArn", "OIDCToken"]
SECONDS = "%Y-%m-%dT%H:%M:%SZ"


class TokenService:
    """Issues keys that expire. A test may change which tokens it trusts."""

    def __init__(self, keys: dict[str, Key]) -> None:
        self.keys = keys
        self.role_arn = "acs:ram::123456789012:role/fanfold"
        self.provider_arn = "acs:ram::123456789012:oidc-provider/cluster"
        self.tokens = {"token-of-the-pod"}  # accepted contents of the token file
        self.node_role = "node-role"
        # a set: only requests with one of these are answered
        self.node_tokens: set[str] | None = None
        self.seconds: float | None = None  # instead of the requested duration
        self.allows: Callable[[str, str, str], bool] = lambda operation, bucket, key: True

    def issue(self, seconds: float) -> dict[str, str]:
        """Issue a new key."""
        end = time.time() + (seconds if self.seconds is None else self.seconds)
        token = "CAIS" + secrets.token_urlsafe(300)
        name, secret = "STS." + secrets.token_urlsafe(18), secrets.token_urlsafe(33)
        self.keys[name] = Key(name, secret, token, end, self.allows)
        return {
            "AccessKeyId": name,
            "AccessKeySecret": secret,
            "SecurityToken": token,
            "Expiration": stamp(end, SECONDS),
        }

    def assume_role(self, given: Mapping[str, str]) -> Answer:
        """AssumeRoleWithOIDC; its answer is XML unless JSON is requested."""
        status, tree = self._assumed(given)
        tree = {"RequestId": secrets.token_hex(16).upper(), **tree}
        if given.get("Format", "").upper() == "JSON":
            return _json(tree, status)
        return document("AssumeRoleWithOIDCResponse" if status == 200 else "Error", tree, status)

    def _assumed(self, given: Mapping[str, str]) -> tuple[int, Tree]:
        session, duration = given.get("RoleSessionName", ""), given.get("DurationSeconds", "3600")
        asked = given.get("Action"), given.get("Version")
        for code, right in {
            **{f"Missing{name}": given.get(name) for name in NEEDED},
            "InvalidAction.NotFound": asked == ("AssumeRoleWithOIDC", "2015-04-01"),
            "InvalidParameter.RoleSessionName": re.fullmatch(r"[A-Za-z0-9.@_-]{2,64}", session),
            "InvalidParameter.DurationSeconds": re.fullmatch("[0-9]{3,5}", duration)
            and 900 <= int(duration) <= 43200,
            "EntityNotExist.OIDCProvider": given.get("OIDCProviderArn") == self.provider_arn,
            "EntityNotExist.Role": given.get("RoleArn") == self.role_arn,
            "AuthenticationFail.OIDCToken.Invalid": given.get("OIDCToken") in self.tokens,
        }.items():
            if not right:
                status = 404 if code.startswith(("Entity", "InvalidAction")) else 400
                return status, {"Code": code, "Message": f"The request is refused: {code}."}
        user = {"Arn": f"{self.role_arn}/{session}", "AssumedRoleId": f"300000:{session}"}
        return 200, {"AssumedRoleUser": user, "Credentials": self.issue(int(duration))}

    def metadata(self, request: Request) -> Answer:
        """Return a metadata token, the name of the node's role, or its key."""
        path = f"/{request.bucket}/{request.key}"
        if path == NODE_TOKEN:
            if request.method != "PUT" or not request.headers.get(TTL, "").isdecimal():
                return Answer(400)
            token = secrets.token_urlsafe(30)
            if self.node_tokens is not None:
                self.node_tokens.add(token)
            return Answer(200, {"Content-Type": "text/plain"}, token.encode())
        if self.node_tokens is not None and request.headers.get(SHOWN) not in self.node_tokens:
            return Answer(403)
        asked = path.removeprefix(METADATA)
        if not asked:
            return Answer(200, {"Content-Type": "text/plain"}, self.node_role.encode())
        if asked != self.node_role:
            return Answer(404, {"Content-Type": "text/html"}, b"404 - Not Found")
        now = stamp(time.time(), SECONDS)
        return _json({**self.issue(6 * 3600), "LastUpdated": now, "Code": "Success"})


def _json(tree: Tree, status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(tree).encode())

"""The session of a bucket: connections, and what the environment says of proxies and certificates.

The HTTP client would read the environment for every request, which takes a quarter of the CPU time
of a small one.
"""

from __future__ import annotations

import oss2


def open_session(endpoint: str, bucket: str, connections: int) -> oss2.Session:
    """A session for the requests to one bucket."""
    session = oss2.Session(pool_size=connections)
    scheme, _, host = endpoint.partition("://")
    client, url = session.session, f"{scheme}://{bucket}.{host}"  # no_proxy may name this host
    found = client.merge_environment_settings(url, {}, None, None, None)
    client.proxies, client.verify, client.trust_env = found["proxies"], found["verify"], False
    return session

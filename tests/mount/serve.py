"""An S3 server that can fail: it answers 503 while the file FAIL exists.

python3 serve.py PORT FAIL
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


def main(argv: list[str] | None = None) -> int:
    """Serve until killed."""
    port, fail = sys.argv[1:] if argv is None else argv
    moto = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if Path(fail).exists():
            start("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        answered: Iterable[bytes] = moto(environ, start)
        return answered

    logging.getLogger("werkzeug").disabled = True
    run_simple("127.0.0.1", int(port), answer, threaded=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`ftmtl-serve`: MONAI Label's server with safe settings.

The endpoints are MONAI Label's own functions. Around them (`monailabel_app.server`): loopback
unless told otherwise and a token wherever it is not, no cross-origin access, limits, only the
routes that this app answers for, a log and a Prometheus page. `monailabel start_server` works too,
without these.
"""

from __future__ import annotations

import os
import sys

# As `ftmtl` does, and for the processes that the server starts; it is read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ftmtl.lean import load_monai
from monailabel_app.server import log
from monailabel_app.server.access import UnusableToken, find_token
from monailabel_app.server.claim import Taken, check_port, claim_workspace
from monailabel_app.server.options import address, configure, is_loopback, parse, place

MOST_CONNECTIONS = 500


def main(arguments: list[str] | None = None) -> int:
    """Serves until interrupted. Returns the exit status."""
    options = parse(arguments)
    loopback = is_loopback(options.host)
    try:
        check_port(options.host, options.port)
        _held = claim_workspace(options.workspace)
        token, is_new = find_token(options.token_file, options.workspace, needed=not loopback)
    except (OSError, Taken, UnusableToken) as error:
        print(f"ftmtl-serve: {error}", file=sys.stderr)
        return 2
    configure(options, token=token)
    log.configure()
    if is_new:
        print(f"Every request must carry this token, which is shown once: {token}")
    elif token is not None:
        print("Every request must carry the server's token.")
    if not loopback and options.tls_cert is None:
        print(
            "\n*** WARNING: NO ENCRYPTION ***\n"
            f"{options.host} can be reached by others, who can read every image and the token on\n"
            "the wire. Give --tls-cert and --tls-key, or stand behind a proxy that has them.\n",
            file=sys.stderr,
        )
    print(f"Reading mammograms in {place(options.studies)} on {address(options)}", flush=True)
    load_monai()
    import uvicorn

    from monailabel_app.server.limits import PunctualProtocol
    from monailabel_app.server.routes import create_app

    server = create_app(
        token=token,
        loopback=loopback,
        max_upload_mb=options.max_upload_mb,
        upload_seconds=options.upload_seconds,
    )
    uvicorn.run(
        server,
        http=PunctualProtocol,
        host=options.host,
        port=options.port,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=5,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line of `ftmtl-serve`, and what MONAI Label has to know of it."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from monailabel.config import settings

APP = Path(__file__).resolve().parent.parent


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; ends the process with the reason where one makes no sense."""
    parser = argparse.ArgumentParser(
        prog="ftmtl-serve",
        description="Serves a folder of mammograms until interrupted.",
    )
    parser.add_argument(
        "--studies", required=True, help="folder of mammograms, or a PACS: http://HOST/dicom-web"
    )
    parser.add_argument("--workspace", type=Path, help="labels, models, key [STUDIES-workspace]")
    parser.add_argument("--weights", type=Path, help="weights to begin with [the starter weights]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    parser.add_argument("--host", default="127.0.0.1", help="[127.0.0.1]")
    parser.add_argument("--port", type=int, default=8000, help="[8000]")
    parser.add_argument(
        "--token-file",
        type=Path,
        help="file with the token that every request must carry [environment FTMTL_TOKEN; "
        "on a network without either, one is made in the workspace]",
    )
    parser.add_argument("--tls-cert", type=Path, help="certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, help="its private key, PEM")
    parser.add_argument(
        "--max-upload-mb", type=float, default=256, help="largest file taken [256]"
    )
    parser.add_argument(
        "--upload-seconds", type=float, default=120, help="longest time for sending one [120]"
    )
    parser.add_argument(
        "--pacs-cache-gb",
        type=float,
        default=20,
        help="most that is kept of a PACS besides the images with a label [20]",
    )
    options = parser.parse_args(arguments)
    if options.studies.startswith(("http://", "https://")):
        if options.workspace is None:
            parser.error("--workspace: studies in a PACS need a folder for labels and models")
    else:
        options.studies = Path(options.studies)
        if not options.studies.is_dir():
            parser.error(f"--studies: there is no folder {options.studies}")
        options.studies = options.studies.resolve()
    for name in ("weights", "token_file", "tls_cert", "tls_key"):
        file = getattr(options, name)
        if file is not None and not file.is_file():
            parser.error(f"--{name.replace('_', '-')}: there is no file {file}")
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key go together")
    if not 0 <= options.port <= 65535:
        parser.error("--port is from 0 to 65535")
    if options.max_upload_mb <= 0 or options.upload_seconds <= 0:
        parser.error("--max-upload-mb and --upload-seconds are above 0")
    if options.pacs_cache_gb <= 0:
        parser.error("--pacs-cache-gb is above 0")
    if options.workspace is None:
        options.workspace = options.studies.with_name(f"{options.studies.name}-workspace")
    if options.workspace.resolve() == options.studies:
        parser.error("--workspace: labels in the studies' own folder would be taken for images")
    return options


def configure(options: argparse.Namespace, *, token: str | None) -> None:
    """Tells MONAI Label, and by the environment the processes that it starts, what to do."""
    conf = {
        "device": options.device,
        "workspace": str(options.workspace.resolve()),
        "pacs_cache_gb": str(options.pacs_cache_gb),
    }
    if options.weights is not None:
        conf["weights"] = str(options.weights.resolve())
    chosen: dict[str, Any] = {
        "MONAI_LABEL_APP_DIR": str(APP),
        "MONAI_LABEL_STUDIES": str(options.studies),
        "MONAI_LABEL_APP_CONF": conf,
        "MONAI_LABEL_SERVER_PORT": options.port,
        "MONAI_LABEL_TRACKING_ENABLED": False,  # MLflow is not wanted
        "MONAI_LABEL_AUTO_UPDATE_SCORING": False,  # a process at every start and next sample
    }
    for name, value in chosen.items():
        setattr(settings, name, value)
        os.environ[name] = json.dumps(value) if isinstance(value, dict) else str(value)
    os.environ.setdefault("PYTHONPATH", "")  # MONAI Label expects it to exist
    # How the processes that it starts reach it (`lib.own_server`).
    os.environ["FTMTL_SERVER"] = address(options)
    if options.tls_cert is not None:
        os.environ["FTMTL_TLS_CERT"] = str(options.tls_cert.resolve())
    if token is not None:
        os.environ["FTMTL_TOKEN"] = token


def address(options: argparse.Namespace) -> str:
    """Where the server can be reached from its own machine."""
    host = options.host
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if options.tls_cert else 'http'}://{host}:{options.port}"


def place(studies: Path | str) -> str:
    """The folder, or the address of the PACS without the password that it may hold."""
    if isinstance(studies, Path):
        return str(studies)
    address = urlsplit(studies)
    return address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

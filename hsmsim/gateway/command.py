"""The gateway's command; started by root, with `--user NAME` it goes on as that user."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from hsmsim.errors import HsmsimError
from hsmsim.gateway import assembly, process
from hsmsim.gateway.config import GatewayConfig
from hsmsim.hsm.account import become


def main(build: process.Build = assembly.build) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m hsmsim.gateway", description="AWS's APIs on one port.")
    parser.add_argument("--config", type=Path, required=True, help="a JSON file; see hsmsim.gateway.config")
    parser.add_argument("--user", help="give up root and run as this user")
    arguments = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"
    )
    for noisy in ("alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        if arguments.user:
            become(arguments.user)
        process.run(GatewayConfig.read(arguments.config), build)
    except HsmsimError as error:
        logging.getLogger("hsmsim.gateway").error("%s", error)  # noqa: TRY400 - a sentence, not a trace
        return 1
    return 0

"""The table of commands. A new one is a file with a click command and a line here; it is imported when it is used."""

from __future__ import annotations

import errno
from importlib import import_module
from typing import TYPE_CHECKING, Final

import click

from hsmsim import __version__
from hsmsim.config import Places
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKR

if TYPE_CHECKING:
    from typing import Any

COMMANDS: Final = {
    "up": "hsmsim.cli.simulator:up",
    "down": "hsmsim.cli.simulator:down",
    "env": "hsmsim.cli.simulator:env",
    "quickstart": "hsmsim.cli.quickstart:quickstart",
    "status": "hsmsim.cli.simulator:status",
    "hsm": "hsmsim.cli.hsm:hsm",
    "user": "hsmsim.cli.user:user",
    "key": "hsmsim.cli.key:key",
    "partition": "hsmsim.cli.partition:partition",
    "backup": "hsmsim.cli.backup:backup",
    "account": "hsmsim.cli.account:account",
    "services": "hsmsim.cli.services:services",
    "gateway": "hsmsim.cli.gateway:gateway",
    "fault": "hsmsim.cli.fault:fault",
    "database": "hsmsim.cli.database:database",
    "clock": "hsmsim.cli.clock:clock",
    "configure-pkcs11": "hsmsim.cli.pkcs11:configure",
    "configure-cli": "hsmsim.cli.configure:configure",
    "demo": "hsmsim.cli.demo:demo",
    "bench": "hsmsim.cli.bench:bench",
}


class Commands(click.Group):
    """A group that imports a command when it is used, and turns what goes wrong into one sentence and exit status 1."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import the command of this name."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table is ours
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own type
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read our output has had enough, and click ends us without a word
            raise
        except (HsmsimError, OSError) as error:
            raise click.ClickException(_sentence(error)) from error


def _sentence(error: HsmsimError | OSError) -> str:
    """What a person is told."""
    if isinstance(error, CkrError) and error.rv in {CKR.DEVICE_ERROR, CKR.GENERAL_ERROR}:
        return f"{error}. The HSM says why in its log: {Places.resolve().home}/hsms/*/hsm.log"
    if isinstance(error, PermissionError):
        return f"{error.filename}: {error.strerror}. Is it another user's? HSMSIM_HOME names the state folder."
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"There is no room left on the disk of {error.filename or Places.resolve().home}."
    if isinstance(error, OSError):
        return f"{error.filename or 'A file'}: {error.strerror or error}."
    return str(error)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hsmsim")
def main() -> None:
    """A CloudHSM-style cluster on your own machine.

    Start with `hsmsim up --detach`, then `eval "$(hsmsim env)"`: it sets HSMSIM_MODULE (the PKCS#11 library to load),
    HSMSIM_TOKEN and HSMSIM_PIN (user:password). State is kept in HSMSIM_HOME, sockets in HSMSIM_RUN.
    """

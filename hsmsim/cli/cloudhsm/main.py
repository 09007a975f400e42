"""The program: one command, or a shell of them. Answers are JSON on standard output, what a person is asked is not.

Exit status of a single command: 0, 1 with `error_code` 1, 2 where the command line is wrong.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from typing import Final

import click

from hsmsim import __version__
from hsmsim.cli.cloudhsm import commands
from hsmsim.cli.cloudhsm.session import Session, show
from hsmsim.cli.cloudhsm.tree import Command, Group, cluster_option
from hsmsim.errors import HsmsimError

PROMPT: Final = "aws-cloudhsm > "
_USAGE: Final = 2
_LEAVE: Final = ("quit", "exit")


@click.group(
    cls=Group,
    not_built=("key", "quorum", "crypto"),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="cloudhsm-cli")
def tool() -> None:
    """Manage a cluster and its users, as AWS's cloudhsm-cli does.

    Commands that change users need a login: in interactive mode `login`, else CLOUDHSM_ROLE (admin or crypto-user) and
    CLOUDHSM_PIN (user:password) in the environment. The configuration is the file that HSMSIM_CLOUDHSM_CLI_CONFIG
    names, else the user's, else the system's; `hsmsim configure-cli` writes it, and the PKCS#11 module's will do.
    """


@tool.command("interactive", cls=Command)
@cluster_option
@click.pass_obj
def interactive(held: Session, cluster_id: str) -> None:
    """Ask for commands until `quit`. A login lasts until `logout` or the end."""
    if held.interactive:
        raise HsmsimError("This is interactive mode already. It ends with: quit")
    held.interactive, held.cluster_id = True, cluster_id
    with suppress(ImportError):  # a Python without it reads lines all the same
        import readline  # noqa: F401, PLC0415 - input() uses it
    while True:
        try:
            line = input(PROMPT)
        except EOFError:
            click.echo()
            break
        except KeyboardInterrupt:
            click.echo()
            continue
        if line.strip() in _LEAVE:
            break
        _line(held, line)


def _line(held: Session, line: str) -> None:
    try:
        words = shlex.split(line)
    except ValueError as error:
        show(f"The line cannot be read: {error}.", failed=True)
        return
    if words:
        _run(held, words)


@tool.command("help", cls=Command)
@click.argument("command", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Say what there is, or what a COMMAND does."""
    above = ctx.find_root()
    for name in command:
        below = above.command.get_command(above, name) if isinstance(above.command, click.Group) else None
        if below is None:
            raise click.UsageError(f"There is no command {' '.join(command)!r}.", above)
        above = click.Context(below, info_name=name, parent=above)
    click.echo(above.get_help())
    if not command and ctx.ensure_object(Session).interactive:
        click.echo("\nEnd interactive mode with `quit`.")


tool.add_command(commands.cluster)
tool.add_command(commands.login)
tool.add_command(commands.logout)
tool.add_command(commands.user)


def _run(held: Session, words: list[str]) -> int:
    """Run one command and print its answer; the exit status."""
    try:
        data = tool.main(words, prog_name="cloudhsm-cli", standalone_mode=False, obj=held)
    except click.ClickException as error:
        error.show()
        return _USAGE
    except click.Abort:
        return 1
    except UnicodeEncodeError:
        show("What was typed is not UTF-8.", failed=True)
        return 1
    except HsmsimError as error:
        show(str(error), failed=True)
        return 1
    except OSError as error:
        show(
            f"An HSM did not answer ({error}); what was asked of it may be done or not. Look, then repeat.", failed=True
        )
        return 1
    if isinstance(data, dict | str):
        show(data)
    return 0


def run(words: list[str]) -> int:
    """Run what the command line says; the exit status."""
    held = Session()
    try:
        return _run(held, words)
    finally:
        held.close()


def main() -> None:
    """The program."""
    sys.exit(run(sys.argv[1:]))

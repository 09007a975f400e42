"""Commands and groups that know what AWS's tool has and this one has not: refused by name, never in the help."""

from __future__ import annotations

from typing import Any

import click

from hsmsim.errors import HsmsimError

cluster_option = click.option(
    "--cluster-id", default="", help="Cluster of the configuration, where it has several; else interactive mode's."
)


def _refuse(path: str, name: str) -> HsmsimError:
    """AWS's tool has the command; this one says so instead of doing nothing."""
    words = f"{path} {name}".partition(" ")[2]
    return HsmsimError(f"`{words}` of AWS's cloudhsm-cli is not built into the simulator. See: help")


class Command(click.Command):
    """A command. not_built: subcommands of AWS's that are refused."""

    def __init__(self, *args: Any, not_built: tuple[str, ...] = (), **more: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **more)
        self._not_built = not_built

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse, or read the options."""
        for name in self._not_built:
            if name in args:
                raise _refuse(ctx.command_path, name)
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group. not_built: commands of AWS's that are refused."""

    def __init__(self, *args: Any, not_built: tuple[str, ...] = (), **more: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **more)
        self._not_built = not_built

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Find a command, or refuse it."""
        if name in self._not_built:
            raise _refuse(ctx.command_path, name)
        return super().get_command(ctx, name)

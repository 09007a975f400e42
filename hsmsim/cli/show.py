"""What people see: tables on standard output (or JSON), progress and questions on standard error."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

WIDE = 240  # not a terminal: no line is folded, so that grep and awk see whole rows

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead of a table.")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows under headings, None as "-"; the sentence `empty` if there are no rows."""
    if not rows:
        click.echo(empty, err=True)
        return
    shown = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        shown.add_row(*("-" if cell is None else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, markup=False).print(shown)


def document(value: Any) -> None:  # noqa: ANN401 - whatever JSON can say
    """Print JSON."""
    click.echo(json.dumps(value, indent=2))


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Give a function that shows what is being done: a spinner at a terminal, a line each elsewhere."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield lambda text: click.echo(f"{text} ...", err=True)
        return
    with console.status("") as status:
        yield lambda text: status.update(f"{text} ...")


def secret(prompt: str, file: Path | None, option: str, *, confirm: bool = False) -> str:
    """Take a password: from the first line of the file (`-`: standard input), else ask. Never an argument."""
    if file is not None:
        with click.open_file(str(file), encoding="utf-8") as opened:
            return str(opened.readline()).rstrip("\r\n")
    if not sys.stdin.isatty():
        raise HsmsimError(f"{prompt} is needed and there is no terminal to ask at. Give {option} FILE, or - for stdin.")
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))

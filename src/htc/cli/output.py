"""Where results go: tables and JSON on stdout or in a file, messages on stderr."""

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from htc import files
from htc.progress import NamedProgress, reporting
from htc.ranks import here
from htc.run_folders import require_new_file

STDOUT = "-"
UNLIMITED = 10_000
"""Characters a line, where no terminal sets a limit."""


def say(message: str) -> None:
    """A message for the person at the terminal; of several processes that train together, the first speaks."""
    if here().rank == 0:
        print(message, file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, readable in a pipe as well."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")  # on a narrow terminal; a name cut short could not be copied
    for row in rows:
        grid.add_row(*row)
    console = Console(highlight=False)
    Console(highlight=False, width=console.width if console.is_terminal else UNLIMITED).print(grid)


def check_json_target(target: str | None, flag: str = "--json") -> None:
    """Refuse a JSON target before the work starts; raises `OutputError` if it exists or cannot be written to."""
    if target is None or target == STDOUT:
        return
    require_new_file(Path(target), flag)


def print_or_write_json(target: str | None, content: Any) -> None:
    """Print `content` as JSON if `target` is `-`, write it to the file of that name, or do nothing for None.

    A file is complete or absent; raises `OutputError`.
    """
    if target == STDOUT:
        print(json.dumps(content, indent=None if isinstance(content, list) else 1))
    elif target is not None:
        files.write_json(Path(target), content)


def progress(task: str) -> AbstractContextManager[NamedProgress]:
    """A bar on stderr for (done, total, note); elsewhere than on a terminal, a line now and then."""
    return reporting(True, task)

"""Output of the commands: tables and JSON on stdout or in a file, messages on stderr."""

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
"""Line width if the output is not a terminal."""


def print_message(message: str) -> None:
    """Print a message on stderr; of several processes only the first prints it."""
    if here().rank == 0:
        print(message, file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout; lines are not wrapped if stdout is not a terminal."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")  # wrap on a narrow terminal: truncated names could not be copied
    for row in rows:
        grid.add_row(*row)
    console = Console(highlight=False)
    Console(highlight=False, width=console.width if console.is_terminal else UNLIMITED).print(grid)


def check_json_target(target: str | None, flag: str = "--json") -> None:
    """Raise `OutputError` before the work starts if the JSON file exists already or cannot be written."""
    if target is None or target == STDOUT:
        return
    require_new_file(Path(target), flag)


def print_or_write_json(target: str | None, content: Any) -> None:
    """Print `content` as JSON if `target` is `-`, write it to the file of that name, or do nothing for None.

    The file is written completely or not at all. Raises `OutputError`.
    """
    if target == STDOUT:
        print(json.dumps(content, indent=None if isinstance(content, list) else 1))
    elif target is not None:
        files.write_json(Path(target), content)


def progress(task: str) -> AbstractContextManager[NamedProgress]:
    """Show progress (done, total, note) on stderr: a bar on a terminal, periodic lines elsewhere."""
    return reporting(True, task)

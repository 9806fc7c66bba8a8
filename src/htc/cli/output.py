"""Where results go: folders that are never overwritten, JSON on stdout or in a file, messages on stderr."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc import files
from htc.errors import OutputError
from htc.ranks import here

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = "-"
UNLIMITED = 10_000
"""Characters a line, where no terminal sets a limit."""


def say(message: str) -> None:
    """A message for the person at the terminal; of several processes that train together, the first speaks."""
    if here().rank == 0:
        print(message, file=sys.stderr, flush=True)


def messages() -> "Console":
    """A console on stderr: coloured and animated on a terminal only, never with NO_COLOR."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=here().rank > 0)


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


def folder_for(verb: str, name: str, out: Path | None) -> Path:
    """The folder this run may fill: `out`, or the next free `runs/<verb>/<name>`. Nothing is created yet.

    Raises `OutputError` if `out` is a file, holds something already or cannot be written to.
    """
    if out is None:
        plain = Path("runs", verb, name)
        numbered = (plain if n == 1 else plain.with_name(f"{name}-{n}") for n in count(1))
        out = next(path for path in numbered if not path.exists())
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out {out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"--out {out}: is not empty, and nothing is overwritten; name another folder or remove it")
    require_writable(out, "--out")
    return out


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """While a run fills that folder: if it ends before anything is in it, an empty folder of its making is not left
    behind.
    """
    before = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for path in before:
                path.rmdir()  # refuses a folder with something in it


def check_json_target(target: str | None, flag: str = "--json") -> None:
    """Refuse a JSON target before the work starts; raises `OutputError` if it exists or cannot be written to."""
    if target is None or target == STDOUT:
        return
    path = Path(target)
    if path.is_dir():
        raise OutputError(
            f"{flag} {path}: is a folder; name a file{', or - for standard output' if flag == '--json' else ''}"
        )
    if path.exists():
        raise OutputError(f"{flag} {path}: exists already, and nothing is overwritten; name another file or remove it")
    require_writable(path, flag)


def require_writable(path: Path, flag: str) -> None:
    """Raise `OutputError` unless a file can be made where `path` will be; tried, since permissions do not tell all.
    Leaves nothing.
    """
    existing = next((folder for folder in [path, *path.parents] if folder.exists()), Path())
    if not existing.is_dir():
        raise OutputError(f"{flag} {path}: {existing} is a file, so nothing can be written below it")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        reason = files.REMEDIES.get(error.errno or 0, "no file can be made there: name another place")
        raise OutputError(f"{flag} {path}: cannot write in {existing.absolute()}: {reason}") from error


def print_or_write_json(target: str | None, content: Any) -> None:
    """Print `content` as JSON if `target` is `-`, write it to the file of that name, or do nothing for None.

    A file is complete or absent; raises `OutputError`.
    """
    if target == STDOUT:
        print(json.dumps(content, indent=None if isinstance(content, list) else 1))
    elif target is not None:
        files.write_json(Path(target), content)


@contextmanager
def progress(task: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr for (done, total, note); silent where stderr is not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = messages()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task(task, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(row, completed=done, total=total, note=note)

        yield update

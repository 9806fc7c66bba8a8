"""Output folders and files of runs: nothing is overwritten, and no empty folder remains."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from htc.errors import OutputError
from htc.files import REMEDIES


def folder_for(command: str, name: str, out: Path | None) -> Path:
    """Choose the output folder of a run: `out`, or the next free `runs/<command>/<name>`. Nothing is created yet.

    Raises `OutputError` if `out` is a file, is not empty or cannot be written to.
    """
    if out is None:
        plain = Path("runs", command, name)
        numbered = (plain if n == 1 else plain.with_name(f"{name}-{n}") for n in count(1))
        out = next(path for path in numbered if not path.exists())
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out {out}: is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"--out {out}: is not empty, and nothing is overwritten; give another folder or remove it")
    require_writable(out, "--out")
    return out


@contextmanager
def filling(folder: Path, preparation: str = "") -> Iterator[None]:
    """Remove the folder after the run if it was created in this block and is still empty, but for its subfolder
    `preparation`.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            if folder in missing and preparation and [path.name for path in folder.iterdir()] == [preparation]:
                shutil.rmtree(folder / preparation)
            for path in missing:
                path.rmdir()  # fails for a folder that is not empty


def require_writable(path: Path, flag: str) -> None:
    """Raise `OutputError` unless a file can be created at `path`; a temporary file is created to test it."""
    existing = next((folder for folder in [path, *path.parents] if folder.exists()), Path())
    if not existing.is_dir():
        raise OutputError(f"{flag} {path}: {existing} is a file, not a folder: choose another path")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        reason = REMEDIES.get(error.errno or 0, "no file can be created there: choose another path")
        raise OutputError(f"{flag} {path}: cannot write in {existing.absolute()}: {reason}") from error


def require_new_file(path: Path, name: str) -> None:
    """Raise `OutputError` unless the file is new and can be written; `name` is the option that sets the path."""
    if path.is_dir():
        raise OutputError(f"{name} {path}: is a folder; give a file")
    if path.exists():
        raise OutputError(f"{name} {path}: exists already, and nothing is overwritten; give another file or remove it")
    require_writable(path, name)

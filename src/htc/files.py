"""Reading of JSON files from other programs, and atomic writing of files: complete or not at all."""

import codecs
import errno
import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from htc.errors import DataError, OutputError

REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or choose a path on another disk",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another path",
    errno.EFBIG: "the file would be larger than this system or session allows: raise the limit (ulimit -f), or "
    "write less",
    errno.EACCES: "no permission to write there: choose another path",
    errno.EPERM: "no permission to write there: choose another path",
    errno.EROFS: "that disk is read-only: choose another path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EEXIST: "a part of the path is a file, not a folder: choose another path",
    errno.EISDIR: "it is a folder: give the path of a file",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


class Writer:
    """Write bytes to a temporary file; raises `OutputError`."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path

    def write(self, content: bytes | memoryview) -> None:
        """Append the content."""
        with explained(self._path):
            self._stream.write(content)

    def flush(self) -> None:
        """Pass the written content to the operating system."""
        with explained(self._path):
            self._stream.flush()

    def sync(self) -> None:
        """Wait until the written content is on the disk, so that it survives a power failure."""
        with explained(self._path):
            self._stream.flush()
            os.fsync(self._stream.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[Writer]:
    """Open a file that gets its name only when it is complete; after an error or interruption, nothing is left of it.

    Parent folders are created. Raises `OutputError` with the file, the reason and the remedy.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        stream = temporary.open("wb")
    try:
        yield Writer(stream, path)
        with explained(path):
            stream.close()
            temporary.replace(path)
    finally:
        with suppress(OSError):
            stream.close()  # a full disk would raise again for the buffered content
        temporary.unlink(missing_ok=True)


def remove_incomplete(folder: Path, pattern: str) -> None:
    """Remove the temporary files that killed processes left in a folder; `pattern` is that of their final names, as in
    `last.ckpt`, or `**/*` for all files and subfolders.
    """
    below, _, name = pattern.rpartition("/")
    for path in folder.glob(f"{below}/.{name}.*.tmp" if below else f".{name}.*.tmp"):
        if path.stem.rpartition(".")[2].isdigit():
            path.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise `OutputError` with the path, the reason and the remedy for an `OSError` of the block."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, f"{error.strerror or error}: choose another path")
        raise OutputError(f"cannot write {path}: {remedy}") from error


HIDDEN_NAMES = frozenset(("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"))
"""Files and folders that archives and file managers leave behind, besides those whose name begins with a dot."""
ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and the encodings that they announce; UTF-32's begins with UTF-16's."""


def visible(path: Path) -> bool:
    """Whether a file or folder belongs to the user's data, by its name: `._a.png`, `.DS_Store`, `.ipynb_checkpoints`
    and the like do not.
    """
    return not path.name.startswith(".") and path.name not in HIDDEN_NAMES


def is_file(path: Path) -> bool:
    """Return whether there is such a file; false for a name that cannot be one, such as one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder; false for a name that cannot be one."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def visible_entries(folder: Path) -> list[Path]:
    """The visible files and folders directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if visible(path))


def read_text(path: Path) -> str:
    """Read a text file of another program: UTF-8, or UTF-16 or UTF-32 with a byte order mark, which is removed. Raises
    `DataError` for other encodings, and if it is not readable.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    encoding = next((name for mark, name in ENCODINGS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {encoding.upper()} text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def cache_folder() -> Path:
    """Return the cache folder: `HTC_CACHE`, else `htc` in the platform's cache folder."""
    own = os.environ.get("HTC_CACHE")
    if own:
        return Path(own).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "htc" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "htc"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "htc"


def optional_path(path: str | Path | None) -> Path | None:
    """Return the path of an option that may be a string, or None if it is not given."""
    return None if path is None else Path(path)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; raises `OutputError`."""
    with whole_file(path) as writer:
        writer.write(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n")


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text; raises `OutputError`."""
    with whole_file(path) as writer:
        writer.write(content.encode())


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause garbage collection while a large file is read: none of its many small objects is garbage, but each
    collection would visit them all.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@uncollected()
def read_json(path: Path, kind: str) -> Any:
    """Read a JSON file; `kind` describes the expected file in error messages. Raises `DataError` if it is missing,
    invalid or not readable.
    """
    if path.is_dir() or not path.exists():  # a pipe is neither a folder nor a regular file, and can be read
        raise DataError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}; give {kind}")
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); export or download it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from error

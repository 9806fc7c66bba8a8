"""The record of a running prediction: a line of JSON for each finished image, so that an interrupted run can resume.

The record is beside the result file (`results.json.part`), or in the folder of the drawings (`predictions.part`). The
result file is written from it at the end, and the record is removed. Does not import torch, so that the command line
can check its options first.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from htc.errors import ConfigError, OutputError
from htc.files import explained

PART = ".part"
_IN_FOLDER = f"predictions{PART}"
_HEADER = b'{"call":'


class Journal:
    """The record of one prediction; use it inside `with journal(...)`."""

    def __init__(self, path: Path, stream: IO[bytes], finished: Mapping[str, Sequence[str]]) -> None:
        self.path = path
        self._stream = stream
        self.finished = set(finished)
        """Names of the images that are finished."""
        self.files = {file for files in finished.values() for file in files}
        """Keys of the files that were written for them."""

    def add(self, name: str, files: Sequence[str], results: Sequence[Mapping[str, Any]]) -> None:
        """Record a finished image with keys of its output files and its COCO results."""
        line = {"image": name, "files": files, "results": results}
        with explained(self.path):
            self._stream.write(json.dumps(line, allow_nan=False, ensure_ascii=False).encode() + b"\n")
            self._stream.flush()
        self.finished.add(name)
        self.files.update(files)

    def results(self) -> Iterator[Sequence[Mapping[str, Any]]]:
        """Yield the COCO results of each image, in the order of the record."""
        with explained(self.path), self.path.open("rb") as stream:
            next(stream)
            for line in stream:
                yield json.loads(line)["results"]


def journal_path(results: Path | None, folder: Path) -> Path:
    """Return the path of the record: beside the result file, without one in the folder of the drawings."""
    return folder / _IN_FOLDER if results is None else results.with_name(results.name + PART)


def check_journal(path: Path, *, resume: bool) -> None:
    """Raise `OutputError` if there is a record of an interrupted prediction that is not to be resumed."""
    if path.exists() and not resume:
        raise OutputError(
            f"{path}: the record of an interrupted prediction; continue it with --resume, or remove this file"
        )


@contextmanager
def journal(path: Path, call: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the record, an existing one to resume the prediction, and remove it when the block ends without an error.

    `call` has all options on which the results depend. After an error or an interruption the record stays, unless no
    image is finished. Raises `ConfigError` if the record is of a call with other options, and `OutputError`.
    """
    finished = _read(path, call) if path.exists() else {}
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    record, complete = Journal(path, stream, finished), False
    try:
        if not stream.tell():
            with explained(path):
                stream.write(json.dumps({"call": call}).encode() + b"\n")
                stream.flush()
        yield record
        complete = True
    finally:
        with suppress(OSError):
            stream.close()
        if complete or not record.finished:
            path.unlink(missing_ok=True)


def _read(path: Path, call: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the files of each finished image, and cut off a line that was not written completely."""
    with explained(path), path.open("rb+") as stream:
        first = stream.readline()
        if not first.endswith(b"\n") and (first.startswith(_HEADER) or _HEADER.startswith(first)):
            stream.truncate(0)  # interrupted in its first line
            return {}
        try:
            _compare(path, json.loads(first)["call"], call)
            finished: dict[str, list[str]] = {}
            end = len(first)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                content = json.loads(line)
                finished[content["image"]] = content["files"]
                end += len(line)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise OutputError(
                f"{path}: is not the record of an interrupted prediction, or damaged; remove it to start again"
            ) from error
        stream.truncate(end)
    return finished


def _compare(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for options that differ from those of the interrupted call."""
    now = json.loads(json.dumps(now))
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        raise ConfigError(
            f"--resume: the interrupted prediction had other options ({', '.join(changed)}); repeat its call, or "
            f"remove {path} and its results to start again"
        )

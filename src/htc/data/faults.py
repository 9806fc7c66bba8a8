"""Faults of an annotation file, collected so that the user sees them together."""

from pathlib import Path

from htc.errors import DataError

FAULTS_SHOWN = 5


class Faults:
    """What cannot be used in one file; `check` raises `DataError` if there is anything."""

    def __init__(self, file: Path):
        self.file = file
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """One sentence: which record, what is wrong, what to do."""
        self.messages.append(message)

    def check(self) -> None:
        """Raises `DataError` that names the file and the first faults."""
        if not self.messages:
            return
        count = len(self.messages)
        if count == 1:
            raise DataError(f"{self.file}: {self.messages[0]}")
        more = f"\n  ... and {count - FAULTS_SHOWN} more" if count > FAULTS_SHOWN else ""
        lines = "".join(f"\n  {message}" for message in self.messages[:FAULTS_SHOWN])
        raise DataError(f"{self.file} has {count} faults:{lines}{more}")

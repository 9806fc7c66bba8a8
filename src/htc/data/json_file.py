"""JSON files that somebody else wrote."""

import json
from pathlib import Path
from typing import Any

from htc.errors import DataError


def read_json(path: Path, kind: str) -> Any:
    """The content; `kind` says what to give instead. Raises `DataError` if the file is missing, damaged or not to be
    read.
    """
    if path.is_dir() or not path.exists():  # a pipe is neither a folder nor a regular file, and can be read
        raise DataError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}; give {kind}")
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); export or download it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from error

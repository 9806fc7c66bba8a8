"""The configuration in a model folder, `config.json`. Does not import torch, so that the command line can read it
first.
"""

from pathlib import Path

from pydantic import ValidationError

from htc.config import Config
from htc.config.base import field_errors
from htc.errors import CheckpointError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def model_folder(folder: Path) -> Path:
    """Return `folder` if it contains a model, else its `model/`; raises `CheckpointError` if neither does."""
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG_FILE).is_file():
            if not (candidate / WEIGHTS_FILE).is_file():
                raise CheckpointError(
                    f"{candidate}: has {CONFIG_FILE} but no {WEIGHTS_FILE}, possibly because saving was interrupted; "
                    f"train or convert again"
                )
            return candidate
    raise CheckpointError(
        f"{folder}: no model in this folder (neither {CONFIG_FILE} nor model/{CONFIG_FILE}); pass a folder that "
        f"`htc train` or `htc convert` wrote"
    )


def read_config(path: Path) -> Config:
    """Read and validate a `config.json`; the error lists all unknown keys and wrong types."""
    try:
        return parse_config(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def parse_config(text: str, source: str) -> Config:
    """Parse a configuration from JSON; `source` is its name in errors."""
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        hint = "correct or remove them; the file may be of a newer version of htc"
        raise CheckpointError(f"{source}: not a valid configuration: {field_errors(error, Config)}; {hint}") from error

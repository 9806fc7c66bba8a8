"""The configuration in a folder of ours, `config.json`. Needs no torch: the command line reads it before torch is
imported.
"""

from pathlib import Path

from pydantic import ValidationError

from htc.config import Config
from htc.config.base import field_errors
from htc.errors import CheckpointError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def model_folder(folder: Path) -> Path:
    """`folder` itself if it holds a model, else its `model/`; raises `CheckpointError` if neither does."""
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG_FILE).is_file():
            if not (candidate / WEIGHTS_FILE).is_file():
                raise CheckpointError(
                    f"{candidate}: has {CONFIG_FILE} but no {WEIGHTS_FILE}; was saving interrupted? Train or "
                    f"convert again"
                )
            return candidate
    raise CheckpointError(
        f"{folder}: no model in it (neither {CONFIG_FILE} nor model/{CONFIG_FILE}); give the folder that `htc train` "
        f"or `htc convert` wrote"
    )


def read_config(path: Path) -> Config:
    """A configuration file of ours (JSON), checked; unknown keys and wrong types are listed all at once."""
    try:
        return parse_config(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def parse_config(text: str, source: str) -> Config:
    """JSON text to a configuration; `source` names it in errors."""
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        hint = "correct or remove them; a newer htc may have written this"
        raise CheckpointError(f"{source}: not a valid configuration: {field_errors(error, Config)}; {hint}") from error

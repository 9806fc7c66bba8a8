"""User-supplied facts about a weights file that the file itself may not record.

Does not import torch, so that the command line can check these flags first.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from htc.errors import CheckpointError, ConfigError

Colors = Literal["bgr", "rgb"]


@dataclass(frozen=True)
class UserFacts:
    """User-supplied facts about a checkpoint; `None` means "read it from the file, else use the default"."""

    colors: Colors | None = None
    """Channel order of the network's input (detectron2; mmdetection if the file has no configuration)."""
    norm_epsilon: float | None = None
    """Epsilon of the backbone's frozen norms, 0 or 1e-5 (torchvision)."""

    def __post_init__(self) -> None:
        if self.norm_epsilon not in (None, 0, 1e-5):
            raise ConfigError(f"norm_epsilon is {self.norm_epsilon}; 0 and 1e-5 are supported")

    def check(self, path: Path, *used: str) -> None:
        """Raise `CheckpointError` for a fact that has no effect on this kind of file."""
        for one in fields(self):
            if getattr(self, one.name) is not None and one.name not in used:
                flag = one.name.replace("_", "-")
                raise CheckpointError(
                    f"{path}: --{flag} has no effect on this kind of file; remove it ({_OF[one.name]})"
                )


NO_FACTS = UserFacts()
_OF = {
    "colors": "it is for files of detectron2 and mmdetection",
    "norm_epsilon": "it is for the frozen norms of torchvision",
}

"""User-supplied facts about a weights file that the file itself may not record.

Needs no torch: the command line checks these flags before torch is imported.
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
    """Channel order of the network's input (detectron2; mmdetection without its configuration)."""
    norm_epsilon: float | None = None
    """Epsilon of the backbone's frozen norms, 0 or 1e-5 (torchvision)."""

    def __post_init__(self) -> None:
        if self.norm_epsilon not in (None, 0, 1e-5):
            raise ConfigError(f"the norms' epsilon is {self.norm_epsilon}; 0 and 1e-5 are supported")

    def check(self, path: Path, *used: str) -> None:
        """Raise `CheckpointError` for a fact that this kind of file does not use: it would have no effect."""
        for one in fields(self):
            if getattr(self, one.name) is not None and one.name not in used:
                flag = one.name.replace("_", "-")
                raise CheckpointError(
                    f"{path}: --{flag} says nothing of a file of this kind; leave it out ({_OF[one.name]})"
                )


NO_FACTS = UserFacts()
_OF = {
    "colors": "it is for detectron2's and the original's",
    "norm_epsilon": "it is for the frozen norms of torchvision's",
}

"""What a weights file of another project does not say of itself, so that its user has to."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from htc.errors import CheckpointError, ConfigError

Colours = Literal["bgr", "rgb"]


@dataclass(frozen=True)
class Told:
    """What the user says of a file; None leaves a fact to the file, or to the project's default where there is one."""

    colours: Colours | None = None
    """The order of the channels that its network reads (detectron2; the original without its configuration)."""
    norm_epsilon: float | None = None
    """Of the frozen norms of its backbone, 0 or 1e-5 (torchvision)."""

    def __post_init__(self) -> None:
        if self.norm_epsilon not in (None, 0, 1e-5):
            raise ConfigError(f"the norms' epsilon is {self.norm_epsilon}; 0 and 1e-5 are supported")

    def check(self, path: Path, *used: str) -> None:
        """Raise `CheckpointError` for something told that this kind of file has no use for: it would be silently
        without effect.
        """
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in used:
                flag = field.name.replace("_", "-")
                raise CheckpointError(
                    f"{path}: --{flag} says nothing of a file of this kind; leave it out ({_OF[field.name]})"
                )


NOTHING = Told()
_OF = {
    "colours": "it is for detectron2's and the original's",
    "norm_epsilon": "it is for the frozen norms of torchvision's",
}

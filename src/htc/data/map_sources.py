"""Where semantic targets come from, as a user says it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from htc.errors import ConfigError


@dataclass(frozen=True)
class MapSources:
    """Semantic maps on the disk, up to three that are merged: each lies over the one before, and what it leaves 255
    shows that.

    Raises `ConfigError` if there is no map at all, or only one half of panoptic annotations.
    """

    folder: Path | None = None
    """PNGs of class numbers, named like the pictures."""
    panoptic_json: Path | None = None
    """COCO panoptic annotations, over the folder's maps."""
    panoptic_folder: Path | None = None
    """Their PNGs."""
    instances: int | Literal["ids"] | None = None
    """Over all: the instances, class k (from 0) as this value + k, or each as its category id - 1, as COCO-Stuff
    numbers them.
    """

    def __post_init__(self) -> None:
        if (self.panoptic_json is None) != (self.panoptic_folder is None):
            raise ConfigError("panoptic annotations are a JSON file and a folder of PNGs; give both")
        if self.folder is None and self.panoptic_json is None:
            raise ConfigError(
                "semantic maps need a folder of PNGs, panoptic annotations, or both; without them targets are derived "
                "from the instances"
            )

    @property
    def by_id(self) -> bool:
        """Whether a panoptic category's class is its id - 1, as COCO-Stuff's maps have it, and not its place in the
        file.
        """
        return self.folder is not None or self.instances == "ids"

    def of_part(self, name: str) -> "MapSources":
        """The same for another part of the data: `maps/train2017` becomes `maps/<name>`, `panoptic_train2017.json`
        `panoptic_<name>.json`.
        """
        found = {key: None if path is None else _beside(path, name) for key, path in self._paths().items()}
        return replace(self, **found)

    def _paths(self) -> dict[str, Path | None]:
        return {"folder": self.folder, "panoptic_json": self.panoptic_json, "panoptic_folder": self.panoptic_folder}

    @property
    def merged(self) -> tuple[str, ...]:
        """What is merged, from below, for people to read."""
        files = [str(path) for path in (self.folder, self.panoptic_json) if path is not None]
        return (*files, *([] if self.instances is None else ["instances"]))


def _beside(path: Path, name: str) -> Path:
    prefix, joint, _ = path.stem.rpartition("_")
    named = path.with_name(f"{prefix}{joint}{name}{path.suffix}")
    return named if named.exists() else path.with_name(f"{name}{path.suffix}")

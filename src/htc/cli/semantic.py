"""The option `--semantic` and the flags that describe its maps, shared by `htc train` and `htc evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from htc.cli.options import File, Folder
from htc.errors import ConfigError

if TYPE_CHECKING:
    from htc.data.semantic_maps import MapSources


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MapFlags:
    """How to read the maps of `--semantic DIR`, and what to draw over them."""

    semantic_json: File | None = None
    """COCO panoptic annotations that describe the maps; DIR holds their PNGs, unless --semantic-panoptic is given."""
    semantic_panoptic: Folder | None = None
    """Folder of the PNGs of --semantic-json, which are drawn over the maps of DIR; classes are category ids - 1."""
    semantic_instances: Annotated[str | None, Parameter(metavar="N|ids")] = None
    """Draw the instances over the maps of DIR, class k (from 0) as N + k, or "ids" for category id - 1."""

    def targets(self, semantic: str) -> "Literal['auto', 'none'] | MapSources":
        """Parse the targets of `htc train --semantic auto|none|DIR`; raises `ConfigError` for conflicting flags."""
        return self._sources(semantic, ("auto", "none"))

    def evaluated(self, semantic: str | None) -> "Literal['auto'] | MapSources | None":
        """Parse the ground truth of `htc evaluate --semantic auto|DIR`; raises `ConfigError` for conflicting flags."""
        return self._sources(semantic, ("auto",))

    def _sources(self, semantic: str | None, words: Sequence[str]) -> Any:
        from htc.data.semantic_maps import semantic_sources

        instances = _instances(self.semantic_instances)
        return semantic_sources(semantic, self.semantic_json, self.semantic_panoptic, instances, words)


NO_MAPS = MapFlags()


def _instances(text: str | None) -> "int | Literal['ids'] | None":
    if text is None or text == "ids":
        return text
    if not text.isdecimal():
        raise ConfigError(
            f"--semantic-instances {text}: give the value of the first class, 0 or more, or ids for category ids - 1"
        )
    return int(text)

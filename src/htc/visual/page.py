"""Reports as one self-contained HTML file without scripts, for light and dark screens and for paper.

A page is described as data (`Page` of `PageSection`s of parts); its appearance is defined by `page.html.jinja` alone.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from htc.files import whole_file

if TYPE_CHECKING:
    from jinja2 import Template

Tone = Literal["plain", "good", "warning", "bad"]
QUALITY = 88
"""Quality of embedded JPEGs: outlines stay sharp, and a page with fifty images stays below ten megabytes."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Notice:
    """A highlighted paragraph."""

    text: str
    tone: Tone = "plain"
    title: str = ""
    kind: Literal["notice"] = "notice"


@dataclass(frozen=True)
class Fact:
    """A number with its name and a short explanation."""

    name: str
    value: str
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Facts:
    """A row of numbers."""

    facts: Sequence[Fact]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True)
class Cell:
    """A table cell with a background shade from 0 (none) to 1."""

    text: str
    shade: float = 0.0
    tone: Tone = "plain"


@dataclass(frozen=True)
class PageTable:
    """A table of texts, right-aligned numbers (formatted with `number_format`; None is a dash), or `Cell`s."""

    columns: Sequence[str]
    rows: Sequence[Sequence["str | int | float | Cell | None"]]
    caption: str = ""
    number_format: str = ".3f"
    kind: Literal["table"] = "table"

    def shown(self, value: "str | int | float | Cell | None") -> Cell:
        """Return the cell for a value."""
        if isinstance(value, Cell):
            return value
        if value is None or (isinstance(value, float) and value != value):
            return Cell("–")
        return Cell(format(value, self.number_format) if isinstance(value, float) else str(value))

    def is_number(self, column: int) -> bool:
        """Return whether the cells of a column are right-aligned."""
        return all(not isinstance(row[column], str) for row in self.rows) and bool(self.rows)


@dataclass(frozen=True)
class Figure:
    """An image or chart; `source` is a `data:` URL (see `pixels` and `vector`)."""

    source: str
    alt: str
    caption: str = ""
    wide: bool = False
    """Use the whole width of the page."""
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True)
class Gallery:
    """Figures side by side, as many as fit in a row; `least` is the minimum width of a figure in pixels."""

    figures: Sequence[Figure]
    least: int = 300
    kind: Literal["gallery"] = "gallery"


PagePart = Text | Notice | Facts | PageTable | Figure | Gallery


@dataclass(frozen=True)
class PageSection:
    """A heading with its content."""

    title: str
    parts: Sequence[PagePart]
    lead: str = ""
    """A sentence below the heading that introduces the content."""
    folded: bool = False
    """Collapsed until it is clicked (expanded on paper), for long lists."""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    sections: Sequence[PageSection]
    subtitle: str = ""
    footer: str = ""
    language: str = field(default="en")


def pixels(image: UInt8[np.ndarray, "H W 3"], *, lossless: bool = False) -> str:
    """Encode an RGB image as a `data:` URL, JPEG or PNG."""
    stream = io.BytesIO()
    if lossless:
        Image.fromarray(image).save(stream, "PNG", optimize=True)
    else:
        Image.fromarray(image).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return _data("png" if lossless else "jpeg", stream.getvalue())


def vector(svg: str) -> str:
    """Encode an SVG drawing as a `data:` URL; as an image it can neither run scripts nor load anything."""
    return _data("svg+xml", svg.encode())


def render(page: Page) -> str:
    """Render the HTML text. Titles, cells and captions are escaped, so that they are never interpreted as HTML."""
    return _template().render(
        page=page, sections=[(f"s{number}", section) for number, section in enumerate(page.sections, start=1)]
    )


def write_page(path: str | Path, page: Page) -> None:
    """Write the page atomically; raises `OutputError`."""
    content = render(page).encode()
    with whole_file(Path(path)) as writer:
        writer.write(content)


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    text = files("htc.visual").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        text
    )

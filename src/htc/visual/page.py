"""Reports as one HTML file that needs nothing beside it: no script, no network, light and dark, on paper too.

A page is written as data (`Page` of `PageSection`s of parts); how it looks is `page.html.jinja` alone.
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
"""Of embedded JPEGs: outlines stay crisp, and a page with fifty images stays below ten megabytes."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Notice:
    """A paragraph that stands out: what was found, and what to do."""

    text: str
    tone: Tone = "plain"
    title: str = ""
    kind: Literal["notice"] = "notice"


@dataclass(frozen=True)
class Fact:
    """One number to be seen first, its name, and what it means."""

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
    """A table's cell with a shade behind it, 0 (none) to 1."""

    text: str
    shade: float = 0.0
    tone: Tone = "plain"


@dataclass(frozen=True)
class PageTable:
    """Rows of texts, numbers (shown as `format(value, number_format)`, None as a dash) or `Cell`s; numbers stand
    right.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence["str | int | float | Cell | None"]]
    caption: str = ""
    number_format: str = ".3f"
    kind: Literal["table"] = "table"

    def shown(self, value: "str | int | float | Cell | None") -> Cell:
        """What stands in the cell."""
        if isinstance(value, Cell):
            return value
        if value is None or (isinstance(value, float) and value != value):
            return Cell("–")
        return Cell(format(value, self.number_format) if isinstance(value, float) else str(value))

    def is_number(self, column: int) -> bool:
        """Whether the column's cells stand right."""
        return all(not isinstance(row[column], str) for row in self.rows) and bool(self.rows)


@dataclass(frozen=True)
class Figure:
    """An image or chart; `source` is a `data:` address (see `pixels` and `vector`)."""

    source: str
    alt: str
    caption: str = ""
    wide: bool = False
    """Over the whole width of the page."""
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True)
class Gallery:
    """Figures side by side, as many as fit; `least` is the width in pixels below which one moves to the next row."""

    figures: Sequence[Figure]
    least: int = 300
    kind: Literal["gallery"] = "gallery"


PagePart = Text | Notice | Facts | PageTable | Figure | Gallery


@dataclass(frozen=True)
class PageSection:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[PagePart]
    lead: str = ""
    """One sentence below the heading: what the reader learns here."""
    folded: bool = False
    """Closed until it is clicked (open on paper): long lists."""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    sections: Sequence[PageSection]
    subtitle: str = ""
    footer: str = ""
    language: str = field(default="en")


def pixels(image: UInt8[np.ndarray, "H W 3"], *, lossless: bool = False) -> str:
    """An RGB image as a `data:` address, JPEG or PNG."""
    stream = io.BytesIO()
    if lossless:
        Image.fromarray(image).save(stream, "PNG", optimize=True)
    else:
        Image.fromarray(image).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return _data("png" if lossless else "jpeg", stream.getvalue())


def vector(svg: str) -> str:
    """An SVG drawing as a `data:` address; as an image it can neither run scripts nor load anything."""
    return _data("svg+xml", svg.encode())


def render(page: Page) -> str:
    """The HTML text. Whatever a title, cell or caption holds is shown as it is, never taken for HTML."""
    return _template().render(
        page=page, sections=[(f"s{number}", section) for number, section in enumerate(page.sections, start=1)]
    )


def write_page(path: str | Path, page: Page) -> None:
    """Writes the page, whole or not at all; raises `OutputError`."""
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

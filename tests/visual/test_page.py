"""Report pages: nothing from outside, nothing taken for HTML, written whole."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from htc.errors import OutputError
from htc.visual import charts
from htc.visual.page import (
    Cell,
    Fact,
    Facts,
    Figure,
    Gallery,
    Notice,
    Page,
    PageSection,
    PageTable,
    Text,
    pixels,
    render,
    vector,
    write_page,
)

EVIL = '<script>alert("x")</script>'


class Reader(HTMLParser):
    """Elements, addresses and text of a page; refuses tags that are closed in another order than opened."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self._open = [], [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def full_page(text="plain"):
    image = np.zeros((4, 6, 3), np.uint8)
    parts = [
        Text(text),
        Notice(text, "bad", text),
        Facts([Fact(text, text, text, "good")]),
        PageTable([text, "AP"], [[text, 0.25], [Cell(text, 0.5), None]], text),
        Figure(pixels(image), text, text, wide=True),
        Gallery(
            [
                Figure(pixels(image, lossless=True), text),
                Figure(vector(charts.line_chart({text: ([0, 1], [1, 0])}, text, (text, text))), text),
            ]
        ),
    ]
    sections = [PageSection(text, parts, text), PageSection(text, parts[:1], folded=True), PageSection("Empty", [])]
    return Page(text, sections, text, text)


def test_everything_is_inside_the_file():
    page = Reader(render(full_page()))
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert {address[:5] for address in page.addresses} == {"data:", "#s1", "#s2", "#s3"}
    assert not re.search(r"url\(|@import", render(full_page()))


def test_texts_are_never_html():
    page = Reader(render(full_page(EVIL)))
    assert "script" not in page.tags
    assert sum(EVIL in text for text in page.text) >= 12
    for address in page.addresses:
        if address.startswith("data:image/svg"):
            assert b"<script" not in base64.b64decode(address.split(",")[1])


def test_tables_show_numbers_and_gaps():
    table = PageTable(
        ["class", "AP", "count"], [["a", 0.12345, 3], ["b", None, 4], ["c", float("nan"), 5]], number_format=".2f"
    )
    page = Reader(render(Page("t", [PageSection("s", [table])])))
    cells = [text.strip() for text in page.text if text.strip()]
    assert cells[-9:] == ["a", "0.12", "3", "b", "–", "4", "c", "–", "5"]
    assert [table.is_number(column) for column in range(3)] == [False, True, True]


def test_images_come_back_as_they_were():
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    kind, content = pixels(image, lossless=True).split(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), image)


@pytest.mark.parametrize(
    "empty", [Page("t", []), Page("t", [PageSection("s", [Facts([]), PageTable(["a"], []), Gallery([])])])]
)
def test_pages_may_be_empty(empty):
    assert "<h1>t</h1>" in render(empty)


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    write_page(tmp_path / "deep" / "page.html", full_page())
    assert (tmp_path / "deep" / "page.html").read_text(encoding="utf-8") == render(full_page())
    with pytest.raises(OutputError, match="it is a folder"):
        write_page(tmp_path / "deep", full_page())
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "page.html"]


@pytest.mark.parametrize("values", [[3, 1], {"train": [3, 1], "val": [1, 0]}])
@pytest.mark.parametrize("horizontal", [False, True])
def test_charts_follow_the_page_from_light_to_dark(values, horizontal):
    svg = charts.bar_chart(["a $x^", "b"], values, "objects", ("class", "objects"), horizontal=horizontal)
    assert svg.startswith("<svg")
    assert "prefers-color-scheme:dark" in svg
    assert "var(--ink)" in svg
    assert charts.INK not in svg
    assert svg == charts.bar_chart(["a $x^", "b"], values, "objects", ("class", "objects"), horizontal=horizontal)

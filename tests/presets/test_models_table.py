"""The table of all presets: docs/models.md shows what the command prints, and what was measured says how."""

import json
from pathlib import Path

import pytest

from htc.checkpoint.zoo import catalogue
from htc.cli.models import COLUMNS, models, table_cells
from htc.presets.published import MEASURED_AP

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"


def as_markdown() -> str:
    """The table as it should stand on the page."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *((f"`{name}`", *rest) for name, *rest in map(table_cells, catalogue()))]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def test_the_page_has_the_whole_table() -> None:
    assert as_markdown() in PAGE.read_text(encoding="utf-8"), f"docs/models.md: replace its table by\n{as_markdown()}"


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert models() == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(catalogue())
    for line, entry in zip(printed[1:], catalogue(), strict=True):
        assert line.split()[0] == entry.name
        assert " ".join(cell for cell in table_cells(entry) if cell) in " ".join(line.split())


def test_what_was_measured_is_in_the_table_and_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert models(json="-") == 0  # type: ignore[arg-type]
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name for name, row in rows.items() if row["measured"]} == set(MEASURED_AP)
    demo = rows["htc_r18_small"]["measured"]
    assert (demo["box_ap"], demo["mask_ap"], demo["epochs"], demo["seeds"], demo["command"]) == (
        41.5,
        43.1,
        8,
        [0],
        "htc demo",
    )
    assert (
        rows["htc_r18_small_ga_rpn"]["measured"]["box_ap"],
        rows["htc_r18_small_ga_rpn"]["measured"]["mask_ap"],
    ) == (40.9, 42.5)
    assert rows["htc_senet154_table7"]["source"] == "arXiv 1901.07518, Table 7"

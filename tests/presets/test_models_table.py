"""The table of all presets that `htc models` prints, and what was measured says how."""

import json

import pytest

from htc.checkpoint.zoo import catalogue
from htc.cli.models import models, table_cells
from htc.presets.published import MEASURED_AP


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

"""`htc ablate` from the command line: rows trained, compared and written; nothing lost when the time is up; what it
refuses.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import Result
from cli.test_train import FLAGS
from htc.ablation import report

Htc = Callable[..., Result]
SMALL = ("--preset", "htc_r18_small", *FLAGS)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(report, "DRAWS", 10)


@pytest.mark.slow
def test_some_rows_of_two_tables(htc: Htc, data: Path, tmp_path: Path) -> None:
    command = (
        "ablate",
        "--table",
        "2",
        "1",
        "--rows",
        "parallel",
        "cascade mask",
        "--data",
        data,
        *SMALL,
        "--seeds",
        "5",
        "--out",
        "runs/a",
    )
    early = htc(*command, "--max-time", "1e-9", "--json", "early.json")
    assert early.code == 1, early.err
    assert "3 rows x seeds are not trained yet: repeat the same command" in early.err
    found = htc(*command, "--json", "tables.json")
    assert found.code == 0, found.err
    assert "table 1, Mask R-CNN, seed 5" in found.err
    tables = json.loads((tmp_path / "tables.json").read_text())
    assert [[row["name"] for row in table["rows"]] for table in tables] == [
        ["Cascade Mask R-CNN (parallel)"],
        ["Mask R-CNN", "Cascade Mask R-CNN"],
    ]
    parallel, (single, cascade) = tables[0]["rows"][0], tables[1]["rows"]
    assert parallel["segm"] == cascade["segm"]  # one training for both tables
    assert cascade["differences"]["segm"]["by_seed"] == [cascade["segm"][0] - single["segm"][0]]
    assert "Table 2: Effects of each component" in found.out
    assert json.loads((tmp_path / "runs/a/table1.json").read_text()) == tables[1]
    assert (tmp_path / "runs/a/table1.md").read_text().count("\n|") == 4
    assert len(list((tmp_path / "runs/a/trainings").iterdir())) == 2
    assert "loss" not in htc(*command).err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--table", "9"), "tables 1, 2, 3, 4, 5, 6, 7, 8"),
        (
            ("--table", "7", "--preset", "htc_r18_small"),
            "deformable convolution in a ResNet of depth 50 or more; htc_r18_small has depth 18",
        ),
        (
            ("--table", "2", "--rows", "panet"),
            "table 2 has no such row; its rows: Cascade Mask R-CNN (parallel), + interleaved",
        ),
        (("--table", "2", "--seeds", "1", "1"), "--seeds 1 1: a seed is repeated"),
        (("--table", "2", "--cascade.interleaved", "maybe"), "cascade.interleaved"),
        (("--table", "2", "--preset", "mask_rcnn_r50_fpn_1x_coco"), "cannot be ablated"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    htc: Htc, data: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = htc("ablate", "--data", data, "--out", "runs/a", *arguments)
    assert result.code == 2, result.err
    assert said in " ".join(result.err.split())
    assert not (tmp_path / "runs").exists()

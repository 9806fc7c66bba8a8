"""The harness of the stress tests notices failures: a crash, a hang, too much memory, an exception, a wrong result."""

import ctypes
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

from stress_tests.harness import Case, Record, Stress, report, run_stress  # noqa: E402


def failing(index: int) -> str | None:
    """Each index fails in its own way; 0 and 6 do not."""
    match index:
        case 1:
            return "a wrong result"
        case 2:
            raise ValueError("an exception")
        case 3:
            ctypes.string_at(0)  # a segmentation fault
        case 4:
            time.sleep(600)
        case 5:
            touched = np.ones(300 << 20, np.uint8)
            time.sleep(0.3)
            del touched  # the peak counts, not what is left
        case 7:
            os._exit(3)
    return None


def run(tmp_path: Path, case: Case, count: int, **limits: object) -> Record:
    options = {"seconds": 20.0, "mebibytes": 200, "workers": 2, **limits}
    stress = Stress("example", "an example", count, lambda _shared: case, **options)  # type: ignore[arg-type]
    return run_stress(stress, count, 3, tmp_path / "out")


def test_every_kind_of_failure_is_noticed_and_the_others_go_on(tmp_path: Path) -> None:
    record = run(tmp_path, lambda index, _numbers, _folder: failing(index), 8, seconds=5.0)
    found = {failure["index"]: failure["message"] for failure in record.failures}
    assert set(found) == {1, 2, 3, 4, 5, 7}
    assert found[1] == "a wrong result"
    assert "ValueError: an exception" in found[2]
    assert "SIGSEGV" in found[3]
    assert "did not end within 5 s" in found[4]
    assert "MiB of memory" in found[5]
    assert "exit code 3" in found[7]
    lines = (tmp_path / "out/example.log").read_text().splitlines()
    assert len(lines) == 6
    assert all("seed 3" in line for line in lines)
    written = json.loads((tmp_path / "out/example.json").read_text())
    assert (written["count"], written["seed"], len(written["failures"])) == (8, 3, 6)
    assert written["commit"]
    assert written["peak_mebibytes"] >= 290


def test_a_case_that_would_fill_the_memory_is_ended(tmp_path: Path) -> None:
    def grow(_index: int, _numbers: random.Random, _folder: Path) -> None:
        kept = [np.ones(50 << 20, np.uint8) for _ in range(1)]
        while len(kept) < 40:  # 2 GB in all
            kept.append(np.ones(50 << 20, np.uint8))
            time.sleep(0.1)

    record = run(tmp_path, grow, 1)
    assert len(record.failures) == 1
    assert record.peak_mebibytes < 1500


def test_cases_repeat_under_their_seed_and_index(tmp_path: Path) -> None:
    def draw(index: int, numbers: random.Random, folder: Path) -> str:
        assert not list(folder.iterdir())
        (folder / "left.txt").write_text("a case may leave files")
        report("number", numbers.random())
        return f"{index}: {numbers.random()}"

    first, second = (run(tmp_path / name, draw, 6) for name in ("a", "b"))
    assert first.failures == second.failures
    assert len({failure["message"] for failure in first.failures}) == 6
    assert first.figures == second.figures
    low, high = first.figures["number"]
    assert 0 < low < high < 1


@pytest.mark.parametrize(
    "arguments", [["nothing"], [], ["rle", "--all"], ["rle", "--share", "2"], ["rle", "--count", "0"]]
)
def test_wrong_calls_end_with_exit_code_2(arguments: list[str]) -> None:
    found = subprocess.run([PROJECT / "scripts/stress", *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr

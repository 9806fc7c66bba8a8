"""The whole benchmark on little work, in a process of its own: shape checks would be part of the times."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest

from htc.benchmark.measuring import Conditions
from htc.benchmark.memory import memory
from htc.benchmark.run import QUICK, Amounts, run_benchmark
from htc.errors import ConfigError
from htc.presets import preset

SCRIPT = """
import json
from htc.benchmark.report import as_json, as_markdown
from htc.benchmark.memory import memory
from htc.benchmark.run import QUICK, run_benchmark
from htc.presets import preset
names = []
config = preset("htc_r18_small")
report = run_benchmark(config, QUICK, precisions=["fp32"], parts=["components", "pairs", "training"],
        progress=names.append)
bf16 = run_benchmark(config, QUICK, precisions=["bf16"], parts=["components", "training"], progress=names.append)
print(json.dumps({"report": as_json(report), "bf16": as_json(bf16), "markdown": as_markdown(report),
        "progress": names}))
"""


@cache
def measured() -> dict:
    return json.loads(subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_parts_sum_up_to_the_total():
    for report in ("report", "bf16"):
        (found,) = measured()[report]["components"]
        parts = {part["name"]: part for part in found["parts"]}
        assert list(parts)[:5] == ["backbone", "neck", "RPN head", "proposals", "semantic"]
        assert all(part["seconds"] > 0 for part in parts.values())
        total = parts.pop("total")
        assert total["seconds"] == pytest.approx(sum(part["seconds"] for part in parts.values()))
        assert total["gflop"] == pytest.approx(sum(part["gflop"] for part in parts.values()))
        assert 0 < total["share_of_peak"] < 1


def test_pairs_agree_on_their_results():
    pairs = measured()["report"]["pairs"]
    assert len(pairs) == 6
    assert all(pair["ratio"] == pytest.approx(pair["first_seconds"] / pair["second_seconds"]) for pair in pairs)
    errors = [pair["checks"]["max error"] for pair in pairs if "max error" in pair["checks"]]
    assert len(errors) == 2
    assert max(errors) < 1e-4
    assert [pair["checks"]["identical strings"] for pair in pairs if "identical strings" in pair["checks"]] == [1.0]


def test_training_steps_of_both_models_are_timed():
    steps = [*measured()["report"]["training"], *measured()["bf16"]["training"]]
    assert [(step["model"], step["setting"]["precision"]) for step in steps] == [
        (model, precision) for precision in ("fp32", "bf16") for model in ("htc_r18_small", "Mask R-CNN")
    ]
    assert all(step["seconds"] > 0 and step["gflop"] > 0 for step in steps)
    assert steps[0]["gflop"] > steps[1]["gflop"]


def test_markdown_holds_every_table():
    text = measured()["markdown"]
    tables = [line for line in text.splitlines() if line.startswith("| ---")]
    assert len(tables) == 1 + 1 + 1
    assert "RLE of 4 masks" in text


def test_progress_names_what_is_measured():
    assert "training step (bf16, 1 thread)" in measured()["progress"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process's peak memory")
def test_memory_is_that_of_the_work_not_of_the_imports():
    found = memory("predict", preset("htc_r18_small"), Conditions((64, 96), 1, "fp32", "cpu", 1), 2)
    assert found is not None
    assert found.ready_mib > 100
    assert 1 < found.peak_above_mib < 200


@pytest.mark.parametrize(
    ("changes", "threads", "message"),
    [
        ({"size": (800, 1333)}, [1], "size 800x1333.*multiples of 32"),
        ({"training_size": (0, 32)}, [1], "training size 0x32"),
        ({"repeats": 0}, [1], "0 repeats"),
        ({}, [0], "threads"),
        ({}, [], "threads"),
    ],
)
def test_impossible_amounts_are_refused(changes: dict, threads: list[int], message: str):
    amounts: Amounts = replace(QUICK, **changes)
    with pytest.raises(ConfigError, match=message):
        run_benchmark(preset("htc_r18_small"), amounts, threads=threads)

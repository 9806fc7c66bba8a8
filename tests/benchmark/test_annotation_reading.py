"""The benchmark of reading annotations, at a thousandth of its size."""

import json
from pathlib import Path

import pytest

from htc.benchmark.annotation_reading import PARTS, reading_speed, report_lines, write_annotations
from htc.data.strict_coco import read_strictly
from htc.process_memory import is_reported


def test_the_generated_file_is_plain_coco(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    assert write_annotations(path, 860) == 118
    content = json.loads(path.read_text())
    assert len(content["images"]) == 118
    assert len(content["annotations"]) == 860
    assert any(one["iscrowd"] for one in content["annotations"])
    assert 480 < path.stat().st_size / 860 < 640  # as train2017: 450 MB
    assert read_strictly(path.read_bytes()) is not None


@pytest.mark.slow
@pytest.mark.skipif(not is_reported(), reason="only Linux reports the memory of a process")
def test_every_part_is_measured() -> None:
    found = reading_speed(860)
    assert [one.part for one in found.readings] == list(PARTS)
    assert all(one.seconds > 0 and one.cpu_seconds > 0 and one.peak_mib >= 0 for one in found.readings)
    workers = [one for one in found.readings if one.worker_pss_mib is not None]
    assert [one.part for one in workers] == ["fork", "spawn"]
    lines = list(report_lines(found))
    assert len(lines) == 4 + len(PARTS)
    assert all(line.count("|") == 7 for line in lines[2:])

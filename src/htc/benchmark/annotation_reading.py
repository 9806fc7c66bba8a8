"""Time and memory of reading an annotation file of COCO's size: first, from the cache, in workers, in `htc doctor`.

`write_annotations` generates the file; each part is measured in a process of its own:
`python -m htc.benchmark.annotation_reading PART FILE`.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from htc.config import Inference, Input
from htc.data.annotation_file import KIND, annotation_file, read_annotation_file
from htc.data.coco import dataset_of, read_coco
from htc.data.columns_cache import VARIABLE
from htc.data.dataset import Dataset
from htc.errors import ConfigError
from htc.files import read_json, whole_file
from htc.process_memory import is_reported, peak, reset_peak, shares

SIZE = (480, 640)
CLASSES = 80
INSTANCES = 860_001
"""Instances of COCO train2017, on 118,287 images."""
PER_IMAGE = 7.27
POINTS = 22
"""Average points of a polygon: 450 MB for all instances of train2017."""
CROWDS = 0.012
"""Share of crowds, whose masks are run lengths."""
SECOND_RINGS = 0.12
"""Share of instances with two polygons."""


PARTS = ("first", "cached", "memory", "tolerant", "doctor", "fork", "spawn")
"""The first reading, which writes the cache; from the cache; without a cache; by the tolerant reader; the annotation
checks of the doctor; and the cached dataset in workers of both start methods.
"""
WORKERS = 4


@dataclass(frozen=True)
class Reading:
    """One part: wall-clock and processor seconds, and MiB."""

    part: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    """Peak above the memory of the process without data; it includes the text of the file while that is read."""
    worker_pss_mib: float | None = None
    """Largest share of a worker, in which pages that n processes share count 1/n."""
    worker_private_mib: float | None = None
    """Most memory that a worker has alone."""


@dataclass(frozen=True)
class ReadingSpeed:
    """All parts for one generated file."""

    images: int
    instances: int
    file_mib: float
    readings: tuple[Reading, ...]


def reading_speed(
    instances: int = INSTANCES, parts: Sequence[str] = PARTS, progress: Callable[[str], None] | None = None
) -> ReadingSpeed:
    """Generate a file with that many instances and measure each part in a new process. Raises `ConfigError` where the
    system does not report the memory of a process (only Linux does).
    """
    if not is_reported():
        raise ConfigError("the memory of a process is measured on Linux only")
    with tempfile.TemporaryDirectory(prefix="htc-annotations-") as name:
        file = Path(name) / "instances.json"
        if progress is not None:
            progress(f"generating {instances:,} instances")
        images = write_annotations(file, instances)
        environment = {**os.environ, VARIABLE: str(Path(name) / "cache")}
        readings = []
        for part in parts:
            if progress is not None:
                progress(f"measuring: {part}")
            if part == "memory":
                own = {**environment, VARIABLE: "off"}
            else:
                own = environment
            command = [sys.executable, "-m", "htc.benchmark.annotation_reading", part, str(file)]
            done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"measuring {part} ended with exit code {done.returncode}:\n{done.stderr}")
            readings.append(Reading(**json.loads(done.stdout)))
        return ReadingSpeed(images, instances, file.stat().st_size / 2**20, tuple(readings))


def measured(part: str, file: Path) -> Reading:
    """Measure one part in this process."""
    if part == "doctor":
        from htc.checks.examine import annotation_findings  # imports torch

        ready = reset_peak()
        start = _now()
        for _ in annotation_findings(read_annotation_file(file, None), Input(), Inference().max_detections):
            pass
        return Reading(part, *_since(start), peak() - ready)
    ready = reset_peak()
    start = _now()
    if part == "tolerant":
        dataset = dataset_of(annotation_file(read_json(file, KIND), file))
    else:
        dataset = read_coco(file, None)
    dataset.images[len(dataset) // 2]
    seconds = _since(start)
    if part not in ("fork", "spawn"):
        return Reading(part, *seconds, peak() - ready)
    start = _now()
    pss, private = _in_workers(dataset, part)
    return Reading(part, *_since(start), peak() - ready, pss, private)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - start[0], time.process_time() - start[1]


def _in_workers(dataset: Dataset, method: str) -> tuple[float, float]:
    """Read every record once, divided among `WORKERS` processes as a loader does; the largest (PSS, private)."""
    context: Any = multiprocessing.get_context(method)
    barrier = context.Barrier(WORKERS)
    results = context.Queue()
    workers = [context.Process(target=_work, args=(dataset, number, barrier, results)) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return max(pss for pss, _ in found), max(private for _, private in found)


def _work(dataset: Dataset, number: int, barrier: Any, results: Any) -> None:
    for position in range(number, len(dataset), WORKERS):
        dataset.images[position]
    barrier.wait()  # all of them share the pages
    own = shares()
    barrier.wait()
    results.put(own)


def report_lines(found: ReadingSpeed) -> Iterator[str]:
    """The measurements as a Markdown table."""
    yield f"{found.images:,} images, {found.instances:,} instances, {found.file_mib:.0f} MiB of JSON"
    yield ""
    yield "| part | seconds | processor seconds | peak MiB | PSS of a worker, MiB | private, MiB |"
    yield "|---|---:|---:|---:|---:|---:|"
    for one in found.readings:
        workers = ["" if value is None else f"{value:.0f}" for value in (one.worker_pss_mib, one.worker_private_mib)]
        yield f"| {one.part} | {one.seconds:.1f} | {one.cpu_seconds:.1f} | {one.peak_mib:.0f} | {' | '.join(workers)} |"


def write_annotations(path: Path, instances: int = INSTANCES, seed: int = 0) -> int:
    """Write a valid COCO instance file with that many instances, and return the number of images (one for 7.27)."""
    generator = np.random.default_rng(seed)
    images = max(1, round(instances / PER_IMAGE))
    owners = np.sort(generator.integers(0, images, instances))
    with whole_file(path) as writer:
        writer.write(b'{"info": {"description": "generated"}, "licenses": [{"id": 1, "name": "none"}], "images": [')
        for image in range(1, images + 1):
            writer.write(_json(_image(image)) + (b", " if image < images else b""))
        writer.write(b'], "annotations": [')
        for number, owner in enumerate(owners.tolist(), start=1):
            text = _json(_annotation(number, owner + 1, generator))
            writer.write(text + (b", " if number < instances else b""))
        categories = [{"supercategory": "thing", "id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
        writer.write(b'], "categories": ' + _json(categories) + b"}\n")
    return images


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _image(number: int) -> dict[str, Any]:
    """An image record with the fields of COCO's."""
    name = f"{number:012}.jpg"
    return {
        "license": 1,
        "file_name": name,
        "coco_url": f"http://images.example.org/train2017/{name}",
        "height": SIZE[0],
        "width": SIZE[1],
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm9.example.org/8186/{number:010}_d2c6ae8f1b_z.jpg",
        "id": number,
    }


def _annotation(number: int, image: int, generator: np.random.Generator) -> dict[str, Any]:
    crowd = generator.random() < CROWDS
    rings = [_ring(generator)]
    if generator.random() < SECOND_RINGS:
        rings.append(_ring(generator))
    points = np.concatenate(rings)
    low, high = points.min(0), points.max(0)
    segmentation: Any = [ring.ravel().tolist() for ring in rings]
    area = float(sum(_area(ring) for ring in rings))
    if crowd:
        left, top, right, bottom = int(low[0]), int(low[1]), *(int(value) for value in np.ceil(high))
        low, high, area = np.array([left, top]), np.array([right, bottom]), float((right - left) * (bottom - top))
        segmentation = {"counts": _filled(left, top, right, bottom), "size": list(SIZE)}
    return {
        "segmentation": segmentation,
        "area": round(area, 4),
        "iscrowd": int(crowd),
        "image_id": image,
        "bbox": [round(float(value), 2) for value in (*low, *(high - low))],
        "category_id": int(generator.integers(1, CLASSES + 1)),
        "id": number,
    }


def _ring(generator: np.random.Generator) -> Float[np.ndarray, "V 2"]:
    """A wavy ellipse with a radius of 6 to 120 pixels within the image, in hundredths of a pixel."""
    count = max(4, int(generator.poisson(POINTS)))
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = 10 ** generator.uniform(0.8, 2.08) * (1 + 0.15 * np.sin(3 * angle + generator.uniform(0, 6)))
    center = generator.uniform((20, 20), (SIZE[1] - 20, SIZE[0] - 20))
    points = center + np.stack((1.3 * radius * np.cos(angle), radius * np.sin(angle)), axis=1)
    return np.clip(points, 0, (SIZE[1], SIZE[0])).round(2)


def _area(ring: Float[np.ndarray, "V 2"]) -> float:
    x, y = ring.T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2))


def _filled(left: int, top: int, right: int, bottom: int) -> list[int]:
    """Run lengths of a filled box, down the columns."""
    height = SIZE[0]
    between = [bottom - top, height - (bottom - top)] * (right - left)
    counts = [left * height + top, *between[:-1]]
    return [*counts, SIZE[0] * SIZE[1] - sum(counts)]


def main() -> None:
    """Measure the part given as argument and write it to standard output as JSON."""
    sys.stdout.write(json.dumps(asdict(measured(sys.argv[1], Path(sys.argv[2])))))


if __name__ == "__main__":
    main()

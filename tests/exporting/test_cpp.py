"""examples/cpp: programs that are compiled where a compiler and the headers of the runtime are, and run.

OpenVINO's package has its headers; those of ONNX Runtime are looked for in ONNXRUNTIME_INCLUDE and where systems have
them.
"""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import htc
from exporting.conftest import Exported
from htc.inference.load import load

SOURCES = Path(__file__).parents[2] / "examples" / "cpp"
COMPILER = shutil.which("g++") or shutil.which("clang++")
HEADER = "onnxruntime_cxx_api.h"
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def onnxruntime_headers() -> Path | None:
    places = [os.environ.get("ONNXRUNTIME_INCLUDE"), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    folders = [Path(place) for place in places if place]
    return next(
        (one for folder in folders for one in (folder, folder / "core/session") if (one / HEADER).is_file()), None
    )


def compiled(source: str, include: Path, libraries: Path, name: str, folder: Path) -> Path:
    """The program, linked to the library of the Python package, also under the name that programs look for."""
    (library,) = (path for path in libraries.glob(f"lib{name}.so*") if not path.is_symlink())
    (folder / f"lib{name}.so.1").symlink_to(library)
    program = folder / "predict"
    command = [COMPILER, "-std=c++17", "-Wall", "-Werror", str(SOURCES / source), f"-I{include}", f"-L{libraries}"]
    command += [
        f"-l:{library.name}",
        f"-Wl,-rpath,{libraries}:{folder}",
        f"-Wl,-rpath-link,{libraries}",
        "-o",
        str(program),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return program


def assert_it_predicts_as_the_model(program: Path, file: Path, exported: Exported, folder: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (120, 150, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "image.ppm")
    expected = load(exported.model, device="cpu").predict(pixels, score_threshold=0.2)
    command = [str(program), str(file), str(folder / "image.ppm"), "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = np.array([line.split() for line in done.stdout.splitlines()], float)
    assert len(rows) == len(expected) > 2
    assert rows[:, 0].tolist() == expected.labels.tolist()
    np.testing.assert_allclose(rows[:, 1], expected.scores, atol=1e-4)
    np.testing.assert_allclose(rows[:, 2:6], expected.boxes, atol=0.02)
    areas = expected.masks.bitmaps().sum((1, 2))
    assert areas.any()
    np.testing.assert_allclose(rows[:, 6], areas, atol=2)
    failed = subprocess.run([*command[:2], str(folder / "none.ppm")], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "none.ppm is not a binary PPM" in failed.stderr


@pytest.mark.skipif(onnxruntime_headers() is None, reason=f"no {HEADER}: set ONNXRUNTIME_INCLUDE to its folder")
def test_onnxruntime(exported: Exported, tmp_path: Path) -> None:
    headers = onnxruntime_headers()
    assert headers is not None
    program = compiled("onnxruntime.cpp", headers, package("onnxruntime") / "capi", "onnxruntime", tmp_path)
    with exported.as_translation():
        htc.export(exported.model, tmp_path / "raw.onnx", raw_images=True, progress=False)
    assert_it_predicts_as_the_model(program, tmp_path / "raw.onnx", exported, tmp_path)


def test_openvino(exported: Exported, tmp_path: Path) -> None:
    openvino = package("openvino")
    program = compiled("openvino.cpp", openvino / "include", openvino / "libs", "openvino", tmp_path)
    with exported.as_translation():
        htc.export(exported.model, tmp_path / "raw.xml", raw_images=True, progress=False)
    assert_it_predicts_as_the_model(program, tmp_path / "raw.xml", exported, tmp_path)

"""Export the small detector of the tests; its own process, since the suite's shape checks cannot be traced.

Run as `python exported.py FOLDER`: writes `model` (a native folder), `model.onnx` with its certificate, and
`parts.onnx`, which also gives the outputs of the parts.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import htc
from htc.cli.app import run
from htc.exporting import export
from small_detector import seeded_detector, small_config


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    config = small_config(2, semantic={}).replace(input={"short_edge": 96, "long_edge": 160})
    htc.Predictor(seeded_detector(config), config).save(folder / "model")
    write = export.write_onnx

    def write_both(translated, path, metadata, *, parts=False):
        write(translated, path, metadata, parts=parts)
        write(translated, folder / "parts.onnx", metadata, parts=True)

    export.write_onnx = write_both
    sys.exit(run(["export", str(folder / "model"), str(folder / "model.onnx"), "--json", str(folder / "again.json")]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

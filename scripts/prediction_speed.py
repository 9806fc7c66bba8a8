"""Times predictions with 0, 1, 10 and 100 detections, in processor seconds of one thread:
`OMP_NUM_THREADS=1 uv run python scripts/prediction_speed.py [REPEATS]`.

HTC R-50 with random weights, one image of 800x1344. What would classify and move regions is zero: every region scores
the same, so that the maximum of the call decides how many are detected, and a threshold of 1 leaves none.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from safetensors.torch import save_file

import htc
from htc.presets import preset

ZERO = ("classify", "regress", "deltas")
CALLS = {
    "0": {"score_threshold": 1.0},
    "1": {"score_threshold": 0.0, "max_detections": 1},
    "10": {"score_threshold": 0.0, "max_detections": 10},
    "100": {"score_threshold": 0.0, "max_detections": 100},
}


def random_weights(folder: Path) -> Path:
    """A model folder of `htc_r50_fpn_1x_coco` with random weights."""
    torch.manual_seed(0)
    config = preset("htc_r50_fpn_1x_coco")
    state = {
        name: torch.zeros_like(tensor) if any(part in name for part in ZERO) else tensor.contiguous()
        for name, tensor in htc.Detector(config).state_dict().items()
    }
    (folder / "config.json").write_text(config.model_dump_json())
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call."""
    before = time.process_time()
    call()
    return time.process_time() - before


def main() -> None:
    """Prints one line for each number of detections: the median over the repeats, taken in turn after a warm-up."""
    torch.set_num_threads(1)
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        predictor = htc.load(str(random_weights(Path(folder))), device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (800, 1344, 3), dtype=np.uint8)
    edges = {"short_edge": 800, "long_edge": 1344}
    for name, call in CALLS.items():
        detections = predictor.predict(image, **call, **edges)
        assert len(detections) == int(name), f"{len(detections)} detections instead of {name}"
    rounds = [
        {name: seconds(lambda call=call: predictor.predict(image, **call, **edges)) for name, call in CALLS.items()}
        for _ in range(repeats)
    ]
    for name in CALLS:
        print(f"{name:>3} detections: {median(one[name] for one in rounds):.2f} s")


if __name__ == "__main__":
    main()

"""Thousands of predictions by one predictor: the memory of the process stays flat."""

import gc
import os
import random
from pathlib import Path

import numpy as np
import torch

import htc
from htc.checkpoint.native import save_pretrained
from stress_tests.harness import Case, Stress, memory_of, report
from stress_tests.samples import generator_of, random_state, tiny_config

EACH = 100
"""Predictions of a case."""
SETTLED = 3
"""Cases until allocators and caches have their size."""
GROWTH_MIB = 32


def prepare(shared: Path) -> Case:
    """Make the model; all cases run in one process, whose memory is compared with that after the first ones."""
    config = tiny_config()
    model = save_pretrained(random_state(config), config, shared / "model")
    state: dict[str, object] = {}
    settled: list[float] = []

    def case(_index: int, numbers: random.Random, _folder: Path) -> str | None:
        torch.set_num_threads(1)
        if "predictor" not in state:
            state["predictor"] = htc.load(model, device="cpu")
        predictor = state["predictor"]
        assert isinstance(predictor, htc.Predictor)
        generator = generator_of(numbers)
        for _ in range(EACH):
            height, width = generator.integers(20, 200, 2)
            detections = predictor.predict(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))
            detections.to_coco(1)
        gc.collect()
        settled.append(memory_of(os.getpid()))
        if len(settled) < SETTLED:
            return None
        report("MiB of the process", round(settled[-1], 1))
        grown = settled[-1] - settled[SETTLED - 1]
        return None if grown < GROWTH_MIB else f"grown by {grown:.0f} MiB in {len(settled) - SETTLED} cases"

    return case


STRESS = Stress(
    "memory",
    f"10,000 predictions ({EACH} a case) by one predictor: the memory of the process grows by less than "
    f"{GROWTH_MIB} MiB",
    100,
    prepare,
    seconds=600,
    mebibytes=None,
    at_least=4,
    workers=1,
)

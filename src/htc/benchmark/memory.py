"""Peak memory of prediction and of a training step, each measured in a separate process:
`python -m htc.benchmark.memory < REQUEST`.
"""

import gc
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from htc import process_memory
from htc.benchmark.components import detector_path, ready_detector, setting_work
from htc.benchmark.measuring import Conditions, thread_count
from htc.benchmark.training_step import step_task
from htc.config import Config
from htc.ops.onednn import exact_onednn_matmul

What = Literal["predict", "training step"]
MEGA = 2**20


@dataclass(frozen=True)
class Memory:
    """Memory in MiB: in use when model and input are ready, and the peak above that."""

    what: What
    model: str
    setting: Conditions
    count: int
    """Number of detections (prediction) or instances (training step)."""
    ready_mib: float
    peak_above_mib: float


def memory(what: What, config: Config, setting: Conditions, count: int) -> Memory | None:
    """Measure in a new process; None on a CPU unless the system reports the peak of a process (only Linux does)."""
    if setting.torch_device.type != "cuda" and not process_memory.is_reported():
        return None
    request = {"what": what, "config": config.model_dump(mode="json"), "setting": asdict(setting), "count": count}
    command = [sys.executable, "-m", "htc.benchmark.memory"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"the process that measures the memory of {what} ended with exit code {done.returncode}:\n{done.stderr}"
        )
    ready, peak = json.loads(done.stdout)
    return Memory(what, config.preset, setting, count, ready, peak)


def measured(what: What, config: Config, setting: Conditions, count: int) -> tuple[float, float]:
    """Measure the memory of this process in MiB: (in use when ready, peak above that)."""
    with thread_count(setting.threads):
        if what == "predict":
            detector, work = ready_detector(config, setting), setting_work(config, setting, count)
            gc.collect()
            ready = _reset(setting)
            with torch.inference_mode(), exact_onednn_matmul():
                list(detector_path(detector, work))
        else:
            step = step_task(config, setting, count)
            gc.collect()
            ready = _reset(setting)
            step()
            step()  # the first step creates gradients and momentum, which the second has from the start
    return ready, _peak(setting) - ready


def _reset(setting: Conditions) -> float:
    """Reset the peak and return the memory in use in MiB."""
    if setting.torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.torch_device)
        return torch.cuda.memory_allocated(setting.torch_device) / MEGA
    return process_memory.reset_peak()


def _peak(setting: Conditions) -> float:
    device = setting.torch_device
    return torch.cuda.max_memory_allocated(device) / MEGA if device.type == "cuda" else process_memory.peak()


def main() -> None:
    """Measure as requested on standard input and write the result to standard output."""
    request = json.load(sys.stdin)
    setting = Conditions(**{**request["setting"], "size": tuple(request["setting"]["size"])})
    result = measured(request["what"], Config.model_validate(request["config"]), setting, request["count"])
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()

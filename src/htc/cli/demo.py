"""`htc demo`: train, evaluate and predict on bundled images."""

from htc.cli.metrics import print_metrics
from htc.cli.options import Device, Folder, Natural
from htc.cli.output import print_message, progress
from htc.cli.train import steps_of
from htc.extras import require
from htc.run_folders import filling, folder_for


def demo(*, out: Folder | None = None, seed: Natural = 0, device: Device = "auto") -> int:
    """Train a small HTC from scratch on bundled images of cell nuclei, evaluate it and draw its predictions.

    Parameters
    ----------
    out
        Folder for the model, metrics, curves and images. Default: runs/demo/nuclei.
    seed
        The same seed on the same machine gives the same weights and metrics.
    device
        auto (CUDA if available, else the CPU), cpu, cuda, cuda:N, N (the same) or mps.
    """
    require("train", "the demo")
    folder = folder_for("demo", "nuclei", out)
    print_message(
        "Training a small HTC from scratch on images of cell nuclei; this takes a few minutes on two CPU cores."
    )
    from htc.demo.run import run_demo

    with filling(folder), progress("demo") as bar:
        result = run_demo(folder, seed, device, steps_of(bar))
    print_metrics(result.metrics)
    print_message(
        f"\ntime: {result.seconds:.0f} s; average precision in percent, on 30 images of micrographs that are not in "
        f"the training set"
    )
    print_message(f"ground truth and predictions: {result.folder / 'pictures'}")
    print_message(f"curves: {result.folder / 'curves'}    model: {result.model}")
    print_message("\nTry next:")
    for purpose, command in result.next_commands:
        print_message(f"  # {purpose}\n  {command}")
    return 0

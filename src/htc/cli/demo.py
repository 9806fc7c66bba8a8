"""`htc demo`: see it train, measure and predict on real images."""

from htc.cli.metrics import print_metrics
from htc.cli.options import Device, Folder, Natural
from htc.cli.output import progress, say
from htc.cli.train import steps_of
from htc.extras import require
from htc.run_folders import filling, folder_for


def demo(*, out: Folder | None = None, seed: Natural = 0, device: Device = "auto") -> int:
    """Train a small HTC from scratch on bundled images of cell nuclei, measure it, and draw what it finds.

    Parameters
    ----------
    out
        Folder for model, numbers, curves and images. Default: runs/demo/nuclei.
    seed
        The same seed on the same machine gives the same numbers.
    device
        Where to compute; auto takes CUDA if there is one, else the CPU.
    """
    require("train", "the demo")
    folder = folder_for("demo", "nuclei", out)
    say("Training a small HTC from scratch to find cell nuclei: a few minutes on two cores.")
    from htc.demo.run import run_demo

    with filling(folder), progress("demo") as bar:
        result = run_demo(folder, seed, device, steps_of(bar))
    print_metrics(result.metrics)
    say(
        f"\ntook {result.seconds:.0f} s; average precision in per cent, on 30 images of other micrographs than it "
        f"learned from"
    )
    say(f"ground truth beside prediction: {result.folder / 'pictures'}")
    say(f"curves: {result.folder / 'curves'}    model: {result.model}")
    say("\nTry next:")
    for purpose, command in result.next_commands:
        say(f"  # {purpose}\n  {command}")
    return 0

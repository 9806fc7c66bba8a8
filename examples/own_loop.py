"""Train HTC with a loop in plain PyTorch: your optimizer, your schedule, your logging.

Example: python examples/own_loop.py --data my_data --steps 1000 --out runs/own
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import torch

import htc
from htc.checkpoint.native import save_pretrained
from htc.data.loader import training_loader
from htc.presets import preset
from htc.types import Batch

NUCLEI = Path(htc.__file__).parent / "demo" / "nuclei"


def batches(dataset: htc.Dataset, config: htc.Config, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Batches without end, each epoch in a new order with new augmentation."""
    for epoch in count():
        for batch in training_loader(dataset, config, seed=0, epoch=epoch, batch_size=batch_size):
            yield batch.to(device)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=NUCLEI, help="a folder with training and validation images")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    options = parser.parse_args(arguments)
    device = torch.device(options.device)

    dataset = htc.Dataset.from_folder(options.data, split="train")
    config = preset("htc_r18_small").replace(
        classes=dataset.classes,
        category_ids=dataset.category_ids,
        semantic={"classes": len(dataset.classes) + 1},  # and the background
    )
    detector = htc.Detector(config).to(device).train()
    objective = htc.TrainingObjective(detector, config)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=max(options.steps, 2))

    steps = islice(batches(dataset, config, options.batch_size, device), options.steps)
    for step, batch in enumerate(steps, start=1):
        losses = objective(batch)  # {"rpn.class": ..., "stage1.mask": ...}: their sum is Eq. 7 of the paper
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0 or step == options.steps:
            print(f"step {step}: {total.item():.3f} ({', '.join(f'{k} {v.item():.2f}' for k, v in losses.items())})")

    save_pretrained(detector, config, options.out)
    print(htc.evaluate(str(options.out), options.data, device=options.device))


if __name__ == "__main__":
    main()

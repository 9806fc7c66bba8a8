"""Train HTC and a plain cascade on the same data, and test whether the difference is more than chance.

Example: python examples/train_evaluate_compare.py --data my_data --epochs 20 --out runs/compare
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import htc

NUCLEI = Path(htc.__file__).parent / "demo" / "nuclei"
WITHOUT_SEMANTICS = {"interleaved": False, "mask_flow": False, "semantic_fusion": "none"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=NUCLEI, help="a folder with training and validation images")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--config", type=Path, help="YAML file with other settings of both trainings")
    options = parser.parse_args(arguments)

    shared = {"preset": "htc_r18_small", "epochs": options.epochs, "config": options.config}
    full = htc.train(options.data, out=options.out / "htc", **shared)
    plain = htc.train(options.data, out=options.out / "cascade", semantic="none", cascade=WITHOUT_SEMANTICS, **shared)

    # COCO results of the first model, against which the second one is compared image by image.
    results = options.out / "htc.json"
    htc.evaluate(full.model, options.data, save_results=results)
    metrics = htc.evaluate(plain.model, options.data, against=results)
    print("\nHTC\n", full.metrics, "\n\ncascade\n", metrics, sep="")
    print("\ncascade minus HTC, with the 95 % interval over images\n", metrics.against, sep="")
    for row in metrics.against:
        chance = row["low"] <= 0 <= row["high"]
        print(f"{row['kind']}: {'no difference beyond chance' if chance else 'a difference beyond chance'}")


if __name__ == "__main__":
    main()

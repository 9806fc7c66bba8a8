"""Predict on a folder of images with several models in several views; write drawings and COCO results.

Example: python examples/ensemble_predict_folder.py photos --model runs/a --model runs/b --views 1:flip --out runs/both
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import htc

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True, help="run folder, preset or weights; repeat it")
    parser.add_argument("--views", default="1:flip", help="scales and flips; 1 is each image once")
    parser.add_argument("--score-threshold", type=float, default=0.5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)

    images = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not images:
        raise SystemExit(f"{options.folder}: no image with one of the suffixes {', '.join(SUFFIXES)}")
    model = htc.ensemble(options.model, views=options.views, device=options.device)
    options.out.mkdir(parents=True, exist_ok=True)

    results = []
    predictions = model.predict_many(
        images,
        workers=2,
        score_threshold=options.score_threshold,
        on_error=lambda source, error: print(f"skipped {source}: {error}"),
    )
    for detections in predictions:
        name = images[detections.index].relative_to(options.folder).with_suffix("").as_posix().replace("/", "_")
        detections.save(options.out / f"{name}.png")
        results += detections.to_coco(image_id=name)
        print(f"{name}: {len(detections)} instances")
    (options.out / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Draw the figure of the README: ground truth beside the prediction of the demo's model, on four validation images.

Usage: uv run htc demo && uv run python scripts/readme_figure.py runs/demo/nuclei docs/images/demo.png
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

import htc
from htc.data.ground_truth import annotated, annotated_image
from htc.demo.run import nuclei
from htc.visual.drawing import crops_of, draw_objects, enlarge
from htc.visual.labels import load_font

SHOWN = {
    # Beginning of the file name: left upper corner of the window.
    "0c2550a23b8a": (40, 20),
    "2dd3356f2dcf": (20, 10),
    "449a9c32e53a": (330, 90),
    "9bb6e39d5f44": (60, 20),
}
WINDOW = (256, 192)
SCALE = 2
GAP, HEADER = 8, 40


def main() -> None:
    """Draws each window twice, two windows a row."""
    model, target = htc.load(sys.argv[1]), Path(sys.argv[2])
    width, height = WINDOW[0] * SCALE, WINDOW[1] * SCALE
    canvas = Image.new("RGB", (4 * width + 5 * GAP, HEADER + 2 * (height + GAP)), "white")
    pen = ImageDraw.Draw(canvas)
    splits = nuclei()
    assert splits.val_annotations is not None
    assert splits.val_images is not None
    records = htc.Dataset.from_coco(splits.val_annotations, splits.val_images)
    for position, (name, (x, y)) in enumerate(SHOWN.items()):
        (record,) = (one for one in records if one.path.name.startswith(name))
        truth = annotated(record, None, None).truth
        assert truth.masks is not None
        image = enlarge(annotated_image(record), SCALE)
        drawn = (
            draw_objects(
                image, truth.boxes.numpy() * np.float32(SCALE), truth.labels.numpy(), crops_of(truth.masks, SCALE)
            ),
            model.predict(record.path).drawing(labels=False, scale=SCALE),
        )
        for side, picture in enumerate(drawn):
            left = GAP + ((position % 2) * 2 + side) * (width + GAP)
            top = HEADER + (position // 2) * (height + GAP)
            window = picture[y * SCALE : y * SCALE + height, x * SCALE : x * SCALE + width]
            canvas.paste(Image.fromarray(window), (left, top))
            if position < 2:
                pen.text((left + 4, 6), ("ground truth", "prediction")[side], fill="#222222", font=load_font(24))
    encoded = cv2.cvtColor(np.asarray(canvas), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(target), encoded, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()

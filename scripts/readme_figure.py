"""Draw the figure of the README: ground truth beside prediction, on four validation images of the bundled nuclei.

The model is that of the demo, trained for eight more epochs (mask AP 48.5 on the validation images):

uv run htc demo
uv run htc train --data src/htc/demo/nuclei --preset htc_r18_small --weights runs/demo/nuclei/model --epochs 8 \\
    --evaluate-every 4 --out runs/longer
uv run python scripts/readme_figure.py runs/longer docs/images/demo.png
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import htc
from htc.data.ground_truth import annotated, annotated_image
from htc.demo.run import nuclei
from htc.visual.drawing import crops_of, draw_objects, enlarge
from htc.visual.labels import load_font

SHOWN = {
    # Beginning of the file name: left upper corner of the window.
    "7f34dfccd1bc": (50, 55),
    "5c6eb9a47852": (64, 62),
    "28d33efef218": (90, 110),
    "0bf4b1441676": (0, 0),
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
    small = canvas.resize((canvas.width * 3 // 4, canvas.height * 3 // 4), Image.Resampling.LANCZOS)
    small.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main()

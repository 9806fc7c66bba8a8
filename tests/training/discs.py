"""A small data set of generated images in COCO form."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codec


def write_split(folder, name, images, seed, objects=3):
    """Bright discs and squares on noise; the second image is empty."""
    generator = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 4, "name": "disc"}, {"id": 9, "name": "square"}]}
    rows, columns = np.mgrid[:72, :80]
    for number in range(images):
        image = generator.integers(0, 60, (72, 80, 3), dtype=np.uint8)
        for _ in range(0 if number == 1 else objects):
            y, x, radius = *generator.integers(12, 60, 2), generator.integers(5, 12)
            category = int(generator.choice([4, 9]))
            away = np.hypot(rows - y, columns - x) if category == 4 else np.maximum(abs(rows - y), abs(columns - x))
            bitmap = away <= radius
            image[bitmap] = (220, 90, 90) if category == 4 else (90, 220, 90)
            rle = rle_codec.encode(np.asfortranarray(bitmap.astype(np.uint8)))
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            area, box = float(rle_codec.area(rle)), rle_codec.toBbox(rle).tolist()
            where = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
            content["annotations"].append({**where, "area": area, "bbox": box, "segmentation": segmentation})
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 72, "width": 80})
        Image.fromarray(image).save(folder / name / f"{number}.png")
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path

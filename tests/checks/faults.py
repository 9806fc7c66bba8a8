"""One data set for each fault. (code, how a clean data set gets it, whether --fix can correct it)."""

import copy
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from checks.data_sets import HEIGHT, WIDTH, DataSet, Fault, bar, both, change, disc, scene

RING = disc(1, 1)["segmentation"][0]
EMPTY = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}


def edit(function: Any) -> Fault:
    """A fault written as a function of the data set that changes it; its result is not used."""

    def apply(data: DataSet) -> None:
        function(data)

    return apply


def resave(change: Any, number: int = 0, **how: Any) -> Fault:
    def apply(data: DataSet) -> None:
        path = data.image(number)
        image = Image.open(path).convert("RGB")
        change(image).save(path, **how)

    return apply


def turned(orientation: int) -> Fault:
    def apply(data: DataSet) -> None:
        path = data.image()
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(path).save(path, exif=exif)

    return apply


def floating(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0].astype(np.float32) / 255)


def two_pages(path: Path) -> None:
    """A TIFF stack in place of an image, which is its first page."""
    Image.open(path).save(path, "TIFF", save_all=True, append_images=[Image.fromarray(scene(60))])


def cut_file(data: DataSet) -> None:
    """A JPEG whose end is missing: its header is whole."""
    stream = BytesIO()
    Image.fromarray(scene(0)).save(stream, "JPEG", quality=95)
    path = data.image()
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])


def saved_again(data: DataSet) -> None:
    """A training image in the validation part, as JPEG of another size."""
    Image.open(data.image()).resize((WIDTH * 2, HEIGHT * 2)).save(data.val_images / "again.jpg", quality=40)
    data.val["images"][0] |= {"file_name": "again.jpg", "height": HEIGHT * 2, "width": WIDTH * 2}
    data.val["annotations"] = [{**one, "segmentation": []} for one in data.val["annotations"]]
    (data.val_images / "val_0.png").unlink()


def copied(data: DataSet) -> None:
    shutil.copy(data.image(), data.images / "copy.png")
    data.train["images"].append({**data.train["images"][0], "id": 7, "file_name": "copy.png"})
    data.objects.append(disc(70, 7))
    shutil.copy(data.maps / data.image().name, data.maps / "copy.png")


def crowded(data: DataSet) -> None:
    for number in range(110):
        data.objects.append(bar(1000 + number, 2, (number % 11 * 11, number // 11 * 9, 9, 7)))


def rare(data: DataSet) -> None:
    """Class 5 in one of 12 images, the others in all."""
    data.train["categories"] += [{"id": 8, "name": "dot"}]
    data.val["categories"] += [{"id": 8, "name": "dot"}]
    data.val["annotations"].append({**bar(500, 1, (5, 5, 12, 9)), "category_id": 8})
    for number in range(3, 24):
        name = f"more_{number}.png"
        Image.fromarray(scene(100 + number)).save(data.images / name)
        data.train["images"].append({"id": 100 + number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        data.objects.extend([disc(2000 + number, 100 + number), bar(3000 + number, 100 + number)])
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(data.maps / name)
    data.objects.append({**bar(501, 1, (5, 5, 12, 9)), "category_id": 8})


def with_map(function: Any) -> Fault:
    def apply(data: DataSet) -> None:
        path = data.maps / data.image().name
        function(np.array(Image.open(path))).save(path)

    return apply


def valued(value: int) -> Any:
    return with_map(lambda values: Image.fromarray(np.where(values == 182, value, values).astype(np.uint8)))


def listed_again(data: DataSet) -> None:
    data.train["images"].append({**data.train["images"][0], "id": 50})
    data.objects[1]["image_id"] = 50


def other_ids(data: DataSet) -> None:
    data.val["categories"][1]["id"] = 6
    for one in data.val["annotations"]:
        if one["category_id"] == 5:
            one["category_id"] = 6


def same_name(data: DataSet) -> None:
    (data.val_images / "val_0.png").rename(data.val_images / "train_0.png")
    data.val["images"][0]["file_name"] = "train_0.png"


def two_cameras(data: DataSet) -> None:
    """Two images of one name in two folders, with one map for both."""
    for number, image in enumerate(data.train["images"][:2]):
        (data.images / f"cam{number}").mkdir()
        (data.images / image["file_name"]).rename(data.images / f"cam{number}" / "x.png")
        (data.maps / image["file_name"]).rename(data.maps / "x.png")
        image["file_name"] = f"cam{number}/x.png"


def ring_inside(step: int) -> Fault:
    """A second ring within the disc; step -1: of the opposite orientation, with the area of a hole."""

    def apply(data: DataSet) -> None:
        inner = np.array(disc(1, 1, radius=6.0)["segmentation"][0]).reshape(-1, 2)[::step]
        data.objects[0]["segmentation"].append(inner.ravel().tolist())
        if step < 0:
            data.objects[0]["area"] -= disc(1, 1, radius=6.0)["area"]

    return apply


def in_subfolder(data: DataSet) -> None:
    (data.images / "cam0").mkdir()
    data.image().rename(data.images / "cam0" / data.image().name)


def renamed(name: str, written: str) -> Fault:
    """The first image's file has the one name, its record the other."""

    def apply(data: DataSet) -> None:
        data.image().rename(data.images / name)
        (data.maps / "train_0.png").rename(data.maps / f"{name.rsplit('.', 1)[0]}.png")
        data.train["images"][0]["file_name"] = written

    return apply


FIXED: list[tuple[str, Fault]] = [
    ("picture-name", renamed("train_0.png", "./train_0.png")),
    ("picture-name", renamed("train_0.png", "train\\train_0.png")),
    ("picture-name", renamed("train_0.png", "upload\\4\\train_0.png")),
    ("picture-name", renamed("zu\u0308rich.png", "z\u00fcrich.png")),
    ("picture-name", renamed("a \u00e9.png", "a%20%C3%A9.png")),
    ("picture-name", in_subfolder),
    ("value-type", change(0, image_id="1")),
    ("value-type", change(0, category_id="1")),
    ("value-type", change(0, category_id=1.0)),
    ("value-type", change(0, id=1.0)),
    ("value-type", change(0, iscrowd="0")),
    ("value-type", change(0, segmentation=[RING, []])),
    ("value-type", edit(lambda data: data.objects[1]["segmentation"].update(size=["96", "128"]))),
    (
        "value-type",
        edit(
            lambda data: data.objects[1]["segmentation"].update(
                counts=str(data.objects[1]["segmentation"]["counts"].encode())
            )
        ),
    ),
    (
        "value-type",
        edit(
            lambda data: data.objects[1]["segmentation"].update(
                counts=list(data.objects[1]["segmentation"]["counts"].encode())
            )
        ),
    ),
    (
        "value-type",
        edit(
            lambda data: data.objects[6]["segmentation"].update(
                counts=" ".join(map(str, data.objects[6]["segmentation"]["counts"]))
            )
        ),
    ),
    ("value-type", edit(lambda data: data.train["images"][0].update(height="96", width=128.0))),
    ("value-type", edit(lambda data: data.train["images"][0].update(id=1.0))),
    ("value-type", edit(lambda data: data.train["categories"][0].update(id="1"))),
    ("image-size-missing", edit(lambda data: data.train["images"][0].pop("height"))),
    ("image-id-twice", edit(lambda data: data.train["images"].append(copy.deepcopy(data.train["images"][0])))),
    ("annotation-record", edit(lambda data: data.objects.append("nothing"))),
    ("annotation-id-missing", change(0, id=None)),
    ("annotation-id-twice", change(2, id=1)),
    ("annotation-without-image", edit(lambda data: data.objects.append(disc(50, 77)))),
    ("category-id-twice", edit(lambda data: data.train["categories"].append(dict(data.train["categories"][0])))),
    ("picture-missing", edit(lambda data: (data.image(1).unlink(), (data.maps / data.image(1).name).unlink())[0])),
    ("picture-name", edit(lambda data: data.image().rename(data.image().with_suffix(".PNG")))),
    ("picture-listed-twice", listed_again),
    ("polygon-flat", change(0, segmentation=RING)),
    ("polygon-odd", change(0, segmentation=[[*RING, 3.0]])),
    ("polygon-short", change(0, segmentation=[RING, [10.0, 10.0]])),
    ("polygon-taken-for-box", change(0, segmentation=[[22.9, 33.2, 34.8, 34.8], RING])),
    ("polygon-no-area", change(0, segmentation=[RING, [30.0, 40.0, 35.0, 45.0, 40.0, 50.0]])),
    (
        "polygon-outside",
        edit(lambda data: data.objects.__setitem__(0, {**disc(1, 1, (10, 50)), "bbox": [0.0, 32.6, 27.4, 34.8]})),
    ),
    ("mask-empty", edit(lambda data: data.objects.append({**bar(50, 1), "segmentation": EMPTY, "bbox": [5, 5, 0, 0]}))),
    ("box-wrong", change(0, bbox=[1, 2, 3])),
    ("box-wrong", change(1, bbox=[70, 20, -40, 25])),
    ("box-missing", change(0, bbox=None)),
    ("box-empty", change(0, bbox=[40.3, 50.6, 0.5, 17.0])),
    ("box-outside", both(change(3, segmentation=None, bbox=[100.0, 20.0, 60.0, 25.0]))),
    ("box-unlike-mask", change(0, bbox=[25.0, 35.0, 20.0, 20.0])),
    ("box-unlike-mask", change(1, bbox=[70.0, 20.0, 110.0, 45.0])),
    ("area-missing", change(0, area=None)),
    ("area-unlike-mask", change(0, area=34.8 * 34.8)),
    ("object-twice", edit(lambda data: data.objects.append({**data.objects[0], "id": 60}))),
]
"""--fix corrects these."""
KEPT: list[tuple[str, Fault]] = [
    (
        "box-whole-numbers",
        edit(lambda data: [one.update(bbox=[float(int(value)) for value in one["bbox"]]) for one in data.objects]),
    ),
    ("image-outside", edit(lambda data: data.train["images"][0].update(file_name="../val/val_0.png"))),
    ("image-outside", edit(lambda data: data.train["images"][0].update(file_name="..\\train\\train_0.png"))),
    ("image-outside", edit(lambda data: data.train["images"][0].update(file_name=str(data.image())))),
    ("image-outside", edit(lambda data: data.train["images"][0].update(file_name="C:\\data\\train_0.png"))),
    ("image-outside", edit(lambda data: data.train["images"][0].update(file_name="%2e%2e/val/val_0.png"))),
    (
        "category-parent",
        edit(
            lambda data: [
                part.update(
                    categories=[
                        {"id": 0, "name": "shapes", "supercategory": "none"},
                        *({**one, "supercategory": "shapes"} for one in part["categories"]),
                    ]
                )
                for part in (data.train, data.val)
            ]
        ),
    ),
    ("polygon-hole", ring_inside(-1)),
    ("polygon-inside", ring_inside(1)),
    ("mask-unlearned", edit(lambda data: [one.update(segmentation=[]) for one in data.objects[1::2]])),
    ("annotation-ignored", change(0, ignore=1)),
    ("annotation-ignored", change(0, ignore=True)),
    ("nothing-to-learn", edit(lambda data: data.train.update(annotations=[]))),
    ("nothing-to-learn", edit(lambda data: [one.update(ignore=1) for one in data.objects])),
    ("nothing-to-evaluate", edit(lambda data: data.val.update(annotations=[]))),
    ("crowd-value", change(0, ignore="perhaps")),
    ("list-empty", edit(lambda data: data.train.update(images=[], annotations=[]))),
    ("image-record", edit(lambda data: data.train["images"].append({"id": None, "file_name": "x.png"}))),
    ("image-record", edit(lambda data: data.train["images"].append({"id": 9}))),
    ("image-id-twice", edit(lambda data: data.train["images"][1].update(id=3))),
    ("category-record", edit(lambda data: data.train["categories"].append({"id": "vi", "name": "six"}))),
    ("category-id-twice", edit(lambda data: data.train["categories"].append({"id": 1, "name": "other"}))),
    ("category-name-twice", edit(lambda data: data.train["categories"].append({"id": 9, "name": "disc"}))),
    ("category-names-alike", edit(lambda data: data.train["categories"].append({"id": 9, "name": "Disc "}))),
    ("category-unknown", change(0, category_id=90)),
    ("category-unknown", change(0, category_id="one")),
    ("picture-unreadable", edit(lambda data: data.image().write_bytes(b"no image"))),
    ("picture-damaged", cut_file),
    ("picture-floating", edit(lambda data: floating(scene(0)).save(data.image(), "TIFF"))),
    ("picture-pages", edit(lambda data: two_pages(data.image()))),
    ("picture-size", resave(lambda image: image.resize((WIDTH * 2, HEIGHT * 2)))),
    ("picture-turned", turned(6)),
    ("picture-orientation", turned(3)),
    ("picture-copied", copied),
    ("picture-unlisted", edit(lambda data: Image.fromarray(scene(50)).save(data.images / "forgotten.png"))),
    (
        "picture-empty",
        edit(lambda data: data.train.update(annotations=[one for one in data.objects if one["image_id"] != 2])),
    ),
    ("box-unlike-mask", change(0, bbox=[80.0, 5.0, 30.0, 20.0])),
    ("polygon-outside", change(0, segmentation=[[value + 150 for value in RING]])),
    ("outline-unknown", change(0, segmentation={"polygon": RING})),
    ("polygon-not-numbers", change(0, segmentation=[[float("nan"), *RING[1:]]])),
    ("polygon-odd", change(0, segmentation=[RING[1:]])),
    ("polygon-normalised", change(0, segmentation=[[value / WIDTH for value in RING]])),
    ("polygon-far", change(0, segmentation=[[*RING, 5e4, 5e4]])),
    ("rle-size", change(1, segmentation={"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]})),
    ("rle-damaged", change(1, segmentation={"size": [HEIGHT, WIDTH], "counts": "\x01\x02"})),
    ("rle-damaged", change(1, segmentation={"size": [HEIGHT, WIDTH], "counts": [1.5]})),
    ("rle-length", change(1, segmentation={"size": [HEIGHT, WIDTH], "counts": [10, 10]})),
    ("mask-missing", change(0, segmentation=[])),
    ("crowd-value", change(0, iscrowd=2)),
    ("crowd-unsaid", change(1, iscrowd=None)),
    ("crowd-polygon", edit(lambda data: data.objects.append({**disc(50, 2, (20, 20), 9), "iscrowd": 1}))),
    ("object-empty", change(0, bbox=None, segmentation=None)),
    ("object-twice", edit(lambda data: data.objects.append({**disc(60, 1, (40.4, 50.6))}))),
    ("object-two-classes", edit(lambda data: data.objects.append({**data.objects[0], "id": 60, "category_id": 5}))),
    ("object-tiny", edit(lambda data: data.objects.append(bar(60, 2, (5, 5, 1, 9))))),
    (
        "class-absent",
        edit(lambda data: [part["categories"].append({"id": 9, "name": "never"}) for part in (data.train, data.val)]),
    ),
    (
        "class-absent",
        edit(
            lambda data: data.val.update(
                annotations=[one for one in data.val["annotations"] if one["category_id"] != 5]
            )
        ),
    ),
    ("class-rare", rare),
    ("picture-crowded", crowded),
    ("categories-differ", edit(lambda data: data.val["categories"][1].update(name="rod"))),
    ("category-ids-differ", other_ids),
    (
        "picture-leaked",
        edit(lambda data: shutil.copy(data.image(), data.val_images / data.val["images"][0]["file_name"])),
    ),
    ("picture-leaked-alike", saved_again),
    ("picture-leaked-name", same_name),
    (
        "group-leaked",
        edit(lambda data: (data.train["images"][0].update(group=4), data.val["images"][1].update(group=4))),
    ),
    ("semantic-missing", edit(lambda data: (data.maps / "train_0.png").unlink())),
    ("semantic-shared", two_cameras),
    ("semantic-unreadable", edit(lambda data: (data.maps / "train_0.png").write_bytes(b"x"))),
    ("semantic-size", with_map(lambda values: Image.fromarray(values[:-1]))),
    ("semantic-mode", with_map(lambda values: Image.fromarray(np.stack([values] * 3, -1)))),
    ("semantic-range", valued(183)),
    ("semantic-unlabelled", with_map(lambda values: Image.fromarray(np.full_like(values, 255)))),
]
"""Only a person can tell what is right."""

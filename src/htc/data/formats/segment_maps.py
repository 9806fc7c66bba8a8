"""Instances in maps of segments: COCO's panoptic annotations and Cityscapes.

COCO panoptic: `annotations/panoptic_train2017.json` with the PNGs of that name beside it, and the images in `train2017`
or `images`. Things become instances, stuff is left to the semantic branch. Cityscapes: `leftImg8bit/train/CITY/*.png`
and `gtFine/train/CITY/*_instanceIds.png`, whose values are 1000 times the class plus a number; a class alone is a
group.
"""

from collections.abc import Iterator
from pathlib import Path

from htc.data.faults import Faults
from htc.data.formats.converted import SPLIT_NAMES, Converted, ConvertedImage, ConvertedInstance, Notes, images_below
from htc.data.formats.map_values import read_pages, rle, runs_by_value
from htc.data.image_headers import image_size
from htc.data.panoptic import PanopticFile, read_panoptic
from htc.errors import DataError
from htc.files import is_file, read_json, visible_entries

PANOPTIC = "panoptic_"
THINGS = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
"""Cityscapes' classes with instances, by their number."""
PHOTOS, MAPS = "leftImg8bit", ("gtFine", "gtCoarse")
NUMBERED = 1000


def panoptic_files(folder: Path) -> dict[str, tuple[Path, Path, Path]]:
    """(JSON file, PNGs, images) of each part of a dataset with panoptic annotations."""
    found = {}
    for place in (folder / "annotations", folder):
        for file in sorted(place.glob(f"{PANOPTIC}*.json")):
            name = file.stem.removeprefix(PANOPTIC)
            part = SPLIT_NAMES.get(name.rstrip("0123456789_-"))
            images = [path for path in (folder / name, folder / "images" / name, folder / "images") if path.is_dir()]
            if part is not None and file.with_suffix("").is_dir() and images:
                found.setdefault(part, (file, file.with_suffix(""), images[0]))
    return found if "train" in found else {}


def read_panoptic_instances(folder: Path) -> Converted:
    """Read the things of all parts as instances. Raises `DataError` with the file, the fault and the remedy."""
    files = panoptic_files(folder)
    faults, notes = Faults(folder), Notes()
    panoptic = {part: read_panoptic(file, maps) for part, (file, maps, _) in files.items()}
    things = [category for category in panoptic["train"].categories.values() if category.thing]
    labels = {category.id: label for label, category in enumerate(things)}
    parts = {
        part: tuple(_panoptic_images(panoptic[part], file, images, labels, faults, notes))
        for part, (file, _, images) in files.items()
    }
    faults.check()
    file, maps, _ = files["train"]
    notes.add(
        f"the semantic branch can be trained on things and stuff of the same maps: --semantic {maps} --semantic-json "
        f"{file}"
    )
    return Converted("COCO panoptic", folder, tuple(one.name for one in things), parts, notes.lines())


def _panoptic_images(
    panoptic: PanopticFile, file: Path, images: Path, labels: dict[int, int], faults: Faults, notes: Notes
) -> Iterator[ConvertedImage]:
    content = read_json(file, "COCO's panoptic annotations")
    names = {
        image["id"]: image["file_name"]
        for image in content.get("images", ())
        if isinstance(image, dict) and {"id", "file_name"} <= image.keys()
    }
    present = {path.stem: path for path in images_below(images)}
    for id, (png, _) in panoptic.maps.items():
        path = images / str(names.get(id, png))
        path = path if is_file(path) else present.get(Path(png).stem, path)
        try:
            size = image_size(path)
            found = panoptic.read(id, size)
        except DataError as error:
            faults.add(str(error))
            continue
        runs = runs_by_value(found.ids)
        objects = []
        for segment in found.segments:
            if segment.category_id in labels and segment.id in runs:
                label = labels[segment.category_id]
                objects.append(ConvertedInstance(label, rle(runs[segment.id], size), crowd=segment.crowd))
            elif segment.category_id in labels:
                notes.name("thing without a pixel in its map", f"segment {segment.id} of {png}")
        yield ConvertedImage(path, *size, tuple(objects))


def is_cityscapes(folder: Path) -> bool:
    """Test whether a folder has Cityscapes' layout."""
    return (folder / PHOTOS / "train").is_dir() and any((folder / name / "train").is_dir() for name in MAPS)


def read_cityscapes(folder: Path) -> Converted:
    """Read the training and validation parts. Raises `DataError` with the file, the fault and the remedy."""
    faults, notes = Faults(folder), Notes()
    maps = next(name for name in MAPS if (folder / name / "train").is_dir())
    parts = {}
    for part in ("train", "val"):
        if (folder / PHOTOS / part).is_dir() and (folder / maps / part).is_dir():
            parts[part] = tuple(_city_images(folder, part, maps, faults, notes))
    faults.check()
    if (folder / PHOTOS / "test").is_dir():
        notes.add("Cityscapes' test images are left out: their annotations are not public")
    return Converted("Cityscapes", folder, tuple(THINGS.values()), parts, notes.lines())


def _city_images(folder: Path, part: str, maps: str, faults: Faults, notes: Notes) -> Iterator[ConvertedImage]:
    labels = {number: label for label, number in enumerate(THINGS)}
    for city in visible_entries(folder / PHOTOS / part):
        for path in images_below(city) if city.is_dir() else ():
            stem = path.stem.removesuffix(f"_{PHOTOS}")
            file = folder / maps / part / city.name / f"{stem}_{maps}_instanceIds.png"
            if not file.is_file():
                notes.name("image without instanceIds.png, which is left out", path.name)
                continue
            try:
                size = image_size(path)
                (values,) = read_pages(file)
                if values.shape != size:
                    raise DataError(f"{file} has not the size of its image, {size[1]}x{size[0]}; download both again")
            except DataError as error:
                faults.add(str(error))
                continue
            objects = []
            for value, counts in runs_by_value(values).items():
                number = value // NUMBERED if value >= NUMBERED else value
                if number in labels:
                    objects.append(ConvertedInstance(labels[number], rle(counts, size), crowd=value < NUMBERED))
            yield ConvertedImage(path, *size, tuple(objects))

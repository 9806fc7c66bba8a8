"""The catalogue of findings: the severity, title, reason and remedy of each code."""

from dataclasses import dataclass

from htc.checks.findings import Severity
from htc.data.faults import FAULT_REMEDIES


@dataclass(frozen=True)
class FindingKind:
    """One kind of fault."""

    severity: Severity
    title: str
    why: str
    remedy: str


def _error(title: str, why: str, remedy: str) -> FindingKind:
    """Build a kind of fault that training refuses, or that would train the model on wrong targets."""
    return FindingKind("error", title, why, remedy)


def _warning(title: str, why: str, remedy: str) -> FindingKind:
    """Build a kind of fault with which training works, but which costs accuracy or distorts the metrics."""
    return FindingKind("warning", title, why, remedy)


def _note(title: str, why: str, remedy: str) -> FindingKind:
    """Build a kind of finding that is not a fault, but useful to know."""
    return FindingKind("note", title, why, remedy)


RECORD_KINDS = {
    "list-empty": _error(
        "A list in the annotation file is empty",
        "training needs at least one image and one category",
        FAULT_REMEDIES["list-empty"],
    ),
    "image-record": _error(
        "An image record is invalid",
        "the image file or its annotations cannot be identified",
        FAULT_REMEDIES["image-record"],
    ),
    "image-outside": _error(
        "An image lies outside the images folder",
        "file names are relative to the images folder; nothing outside it is read",
        FAULT_REMEDIES["image-outside"],
    ),
    "image-size-missing": _error(
        "An image record has no height and width",
        "polygons and RLE masks cannot be decoded without the image size",
        FAULT_REMEDIES["image-size-missing"],
    ),
    "image-id-twice": _error(
        "Two image records have the same id",
        "the annotations of one image would be used for the other",
        FAULT_REMEDIES["image-id-twice"],
    ),
    "annotation-record": _error(
        "An annotation is invalid", "it is not a JSON object with fields", FAULT_REMEDIES["annotation-record"]
    ),
    "annotation-id-missing": _warning(
        "An annotation has no id", "the COCO tools identify annotations by their id", "give it a unique id"
    ),
    "annotation-id-twice": _error(
        "Two annotations have the same id",
        "the COCO tools keep only the last one",
        FAULT_REMEDIES["annotation-id-twice"],
    ),
    "annotation-without-image": _error(
        "An annotation belongs to no image",
        'its image_id is not in "images"',
        FAULT_REMEDIES["annotation-without-image"],
    ),
    "category-record": _error(
        "A category is invalid", "a category needs an integer id and a name", FAULT_REMEDIES["category-record"]
    ),
    "category-id-twice": _error(
        "Two categories have the same id",
        "the class of an annotation with this id is ambiguous",
        FAULT_REMEDIES["category-id-twice"],
    ),
    "category-name-twice": _error(
        "Two categories have the same name", "classes are matched by name", FAULT_REMEDIES["category-name-twice"]
    ),
    "category-names-alike": _warning(
        "Category names differ only in case, spaces or underscores",
        "they are probably one class, which would be trained as two",
        "merge them, or rename one",
    ),
    "category-parent": _note(
        "A category is only the supercategory of the others",
        "it is not trained as a class",
        "remove it, or ignore this note",
    ),
    "value-type": _warning(
        "Values are not written as COCO does",
        "their meaning is certain, so they are used here, but other tools may not find the image or class",
        "write ids, sizes and flags as integers, polygons as lists, and RLE counts as COCO's text or a list",
    ),
    "category-unknown": _error(
        "An annotation has an unknown category",
        "without a class, it cannot be trained on",
        FAULT_REMEDIES["category-unknown"],
    ),
}
IMAGE_KINDS = {
    "picture-missing": _error(
        "An image is not in the folder",
        "training would stop at this image",
        "add the file, correct file_name, or remove the image record",
    ),
    "picture-name": _note(
        "File names in the annotations differ from those of the files",
        "the files are found here, but other tools may not find them",
        "check that these are the right files, and write their names",
    ),
    "picture-unlisted": _note(
        "Images in the folder are not in the annotation file",
        "they are not used for training",
        "annotate them, or ignore this note",
    ),
    "picture-unreadable": _error(
        "An image file cannot be read",
        "training would stop at this image",
        "copy or download it again, or remove the image record",
    ),
    "picture-damaged": _error(
        "An image is damaged or incomplete",
        "its header is readable, but its pixels are not, so training would stop at it",
        "copy or download it again, or remove the image record",
    ),
    "picture-size": _error(
        "The size of an image differs from its record",
        "boxes and masks would be at the wrong position",
        "restore the image that was annotated, or correct height and width in the record",
    ),
    "picture-turned": _error(
        "An image is rotated by its EXIF or TIFF orientation, but its record is not",
        "it was annotated without this rotation but is loaded with it, so boxes and masks would be at the wrong "
        "position",
        "remove the orientation tag (exiftool -Orientation= FILE), or annotate the rotated image again",
    ),
    "picture-orientation": _warning(
        "An image is flipped or rotated by 180 degrees by its EXIF or TIFF orientation",
        "its size does not show whether it was annotated before or after this transformation",
        "check the outlines in the HTML page (--html); save the image upright without the tag",
    ),
    "picture-floating": _error(
        "An image has floating-point values",
        "their range is unknown, so training would stop at this image",
        "convert it to 8 or 16 bits, or give the range of its values in training and prediction: --percentile 0.1,99.9 "
        "(input.intensity of the configuration)",
    ),
    "picture-pages": _warning(
        "An image file has several pages or frames",
        "a record names one image: the first page is used for training, the others are not",
        'save the pages as files, or name each one in its own record: "stack.tif#2" is the second page of stack.tif',
    ),
    "picture-listed-twice": _warning(
        "An image file has several image records",
        "the instances of one record are background in the other",
        "merge the records",
    ),
    "picture-copied": _warning(
        "An image exists under two names",
        "it is used twice, and its instances may be annotated in only one of the copies",
        "keep one of them",
    ),
    "picture-empty": _note(
        "Images without annotations", "they are trained on as background", "check that no instances are missing"
    ),
}
OUTLINE_KINDS = {
    "outline-unknown": _error(
        "A segmentation is neither polygons nor RLE",
        "there is no mask to train on",
        FAULT_REMEDIES["outline-unknown"],
    ),
    "polygon-flat": _error(
        "A segmentation is a polygon instead of a list of polygons",
        "COCO's format is a list of polygons",
        FAULT_REMEDIES["polygon-flat"],
    ),
    "polygon-not-numbers": _error(
        "A polygon contains values that are not finite numbers",
        "its outline is undefined",
        FAULT_REMEDIES["polygon-not-numbers"],
    ),
    "polygon-odd": _error(
        "A polygon has an odd number of coordinates",
        "an x or y is missing, so x and y are swapped after it",
        FAULT_REMEDIES["polygon-odd"],
    ),
    "polygon-short": _error(
        "A polygon has fewer than three points", "it encloses no area", FAULT_REMEDIES["polygon-short"]
    ),
    "polygon-taken-for-box": _error(
        "A polygon has four numbers, which the COCO tools read as a box",
        "they read it as x, y, width, height instead of two points",
        FAULT_REMEDIES["polygon-taken-for-box"],
    ),
    "polygon-no-area": _warning(
        "A polygon encloses no area", "it covers no pixel", "outline the instance, or remove the polygon"
    ),
    "polygon-normalised": _error(
        "Polygon coordinates are normalized (0 to 1)",
        "COCO's coordinates are in pixels, so the whole polygon lies in the first pixel",
        "multiply x by the width and y by the height of the image",
    ),
    "polygon-far": _error(
        "A polygon lies far outside the image",
        "it cannot belong to an instance in this image",
        FAULT_REMEDIES["polygon-far"],
    ),
    "polygon-outside": _warning(
        "A polygon extends outside the image",
        "the mask is clipped to the image, but its box may not be",
        "clip it to the image",
    ),
    "polygon-hole": _warning(
        "A polygon inside another is used as a hole",
        "COCO's polygons are a union, in which it would be filled; the metrics of COCO fill it",
        "nothing, if it is a hole; --coco-holes off fills all holes; RLE masks have holes in every tool",
    ),
    "polygon-inside": _warning(
        "A polygon lies inside another one",
        "with the same orientation it is part of the union and adds nothing, though it may be meant as a hole",
        "remove it or, if it is a hole, reverse its points",
    ),
    "rle-size": _error(
        "The size of an RLE mask differs from its image",
        "its pixels would be at the wrong position",
        FAULT_REMEDIES["rle-size"],
    ),
    "rle-length": _error(
        "The runs of an RLE mask do not add up to the size of the image",
        "its pixels would be at the wrong position",
        FAULT_REMEDIES["rle-length"],
    ),
    "rle-damaged": _error(
        "An RLE mask cannot be decoded",
        "there is no mask to train on",
        FAULT_REMEDIES["rle-damaged"],
    ),
    "mask-empty": _warning(
        "A mask is empty", "there is nothing to train on", "outline the instance, or remove the annotation"
    ),
    "mask-missing": _note(
        "Instances without a mask",
        "on their images, only boxes are trained, no masks",
        "add their masks, or train a model for boxes only",
    ),
    "mask-unlearned": _warning(
        "Masks are not learned although there are some",
        "an image trains masks only if each of its instances has one; boxes and classes are learned from all images",
        "add the missing masks, or remove the instances without a mask from some images",
    ),
    "annotation-ignored": _note(
        "Annotations are marked with ignore",
        "they are used like crowd regions: neither learned nor counted as missed",
        "write ignore 0 for instances that count",
    ),
    "crowd-value": _error(
        "iscrowd or ignore is neither 0 nor 1",
        "it is unclear whether the annotation is an instance or a crowd region",
        FAULT_REMEDIES["crowd-value"],
    ),
    "crowd-unsaid": _warning(
        "An RLE mask has no iscrowd",
        "some tools treat every RLE mask as a crowd region; here it is used as an instance",
        "write iscrowd 0 for an instance, 1 for a crowd region",
    ),
    "crowd-polygon": _warning(
        "A crowd region has polygons",
        "crowd regions are ignored in training and evaluation, but some tools export instances of several polygons "
        "with iscrowd 1",
        "write iscrowd 0 if it is one instance",
    ),
}
BOX_KINDS = {
    "object-empty": _error(
        "An annotation has neither box nor mask", "there is nothing to train on", FAULT_REMEDIES["object-empty"]
    ),
    "box-wrong": _error(
        "A box is not a valid x, y, width, height",
        "the position of the instance is undefined",
        FAULT_REMEDIES["box-wrong"],
    ),
    "box-missing": _note(
        "An annotation has no box",
        "training uses the box of the mask, but other tools need bbox",
        "write the box of the mask",
    ),
    "box-empty": _warning(
        "A box is less than one pixel wide or high",
        "the instance is left out of training",
        "correct the box, or remove the annotation",
    ),
    "box-outside": _warning(
        "A box extends outside the image", "it is clipped to the image", "clip it to the image in the file"
    ),
    "box-unlike-mask": _warning(
        "Box and mask of an annotation disagree",
        "box heads and mask heads would be trained on different regions",
        "use the box of the mask",
    ),
    "box-whole-numbers": _note(
        "Boxes are rounded to whole numbers",
        "they are up to two pixels off the more precise outlines",
        "use the boxes of the masks",
    ),
    "area-missing": _note(
        "An annotation has no area",
        "AP of small, medium and large instances depends on it",
        "write the area of the mask",
    ),
    "area-unlike-mask": _warning(
        "The area of an annotation differs from its mask's",
        "the instance may count in the wrong group for AP of small, medium and large instances",
        "use the area of the mask",
    ),
}
DATASET_KINDS = {
    "object-twice": _warning(
        "An instance is annotated twice",
        "one of the two can only count as missed in the evaluation",
        "remove one of the annotations",
    ),
    "object-two-classes": _warning(
        "One outline is annotated with two classes",
        "at most one of the two classes can be correct",
        "remove the wrong annotation",
    ),
    "object-tiny": _note(
        "Instances smaller than one cell of the finest feature map",
        "they are hardly visible to the network",
        "train at a larger input size, or on crops",
    ),
    "nothing-to-learn": _error(
        "No instance to learn",
        "a model that is trained without any instance predicts nothing",
        "annotate instances; write iscrowd 0 and ignore 0 for single instances",
    ),
    "nothing-to-evaluate": _warning(
        "The validation set has no object to evaluate",
        "without instances, AP is undefined (-1), and the best weights cannot be chosen",
        "annotate instances, or train without a validation set",
    ),
    "class-absent": _warning(
        "A class has no instances",
        "it cannot be trained (train) or evaluated (val)",
        "add instances, or remove the category",
    ),
    "class-rare": _note(
        "A class is rare",
        "it occurs too rarely for good accuracy",
        "add instances, or set training.sampling.repeat_threshold",
    ),
    "picture-crowded": _warning(
        "An image has more instances than the maximum number of detections",
        "the remaining instances are missed, however good the model is",
        "increase inference.max_detections",
    ),
}
SPLIT_KINDS = {
    "categories-differ": _error(
        "Training and validation have different categories",
        "the metrics would be computed for other classes",
        "use the same list of categories in both files",
    ),
    "category-ids-differ": _note(
        "A category has a different id in the validation file",
        "classes are matched by name here, but by id in other tools",
        "use the same list of categories in both files",
    ),
    "picture-leaked": _warning(
        "An image is in both training and validation set",
        "the metrics are too high, since the model was trained on it",
        "remove it from one of them",
    ),
    "picture-leaked-alike": _warning(
        "Nearly the same image is in training and validation set",
        "the metrics are too high, since the model was trained on a near copy",
        "keep copies, frames and crops of one image in the same set",
    ),
    "picture-leaked-name": _note(
        "Training and validation set have images with the same name",
        "their content differs, but one may be an edited copy of the other",
        "check that they are different images",
    ),
    "group-leaked": _warning(
        "A group is in both training and validation set",
        "images of a group are related (crops, frames, one patient), so the metrics are too high",
        "keep every group in one set",
    ),
}
SEMANTIC_KINDS = {
    "semantic-missing": _error(
        "An image has no semantic map",
        "training would stop at this image",
        "add the map, or derive all maps from the instances with --semantic auto",
    ),
    "semantic-shared": _error(
        "Two images have the same semantic map",
        "maps are found by the name of the image, and the other image's labels would be used",
        "put the maps into the same folders as the images, or give the images different names",
    ),
    "semantic-unreadable": _error(
        "A semantic map cannot be read", "training would stop at this image", "export it again as PNG"
    ),
    "semantic-size": _error(
        "The size of a semantic map differs from its image",
        "its labels would be at the wrong position",
        "export it at the size of the image, with nearest-neighbor interpolation",
    ),
    "semantic-mode": _error(
        "A semantic map contains colors instead of class numbers",
        "its values are not labels",
        "export one 8-bit channel (gray or palette) with class numbers",
    ),
    "semantic-range": _error(
        "A semantic map contains values that are not classes",
        "the loss cannot be computed for them",
        "correct the map, or set semantic.classes",
    ),
    "semantic-unlabelled": _warning(
        "A semantic map has no labels",
        "every pixel is 255, which is ignored",
        "export it again if it should have labels",
    ),
}
LAYOUT_KINDS = {
    "layout-missing": _error("A part of the dataset folder is missing", "training needs it", "add it"),
    "layout-converted": _note(
        "How a dataset of another format was read",
        "formats leave open what some files and values mean",
        "if it was read wrongly, follow the hint, or write COCO annotations with htc convert and correct them",
    ),
    "layout-optional": _note(
        "Optional parts of the dataset folder are missing", "training works without them", "add them to use them"
    ),
}
FINDING_KINDS: dict[str, FindingKind] = {
    **{**RECORD_KINDS, **IMAGE_KINDS, **OUTLINE_KINDS, **BOX_KINDS},
    **{**DATASET_KINDS, **SPLIT_KINDS, **SEMANTIC_KINDS, **LAYOUT_KINDS},
}

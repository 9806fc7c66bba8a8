"""The catalogue of findings: for each code its severity, title, why it matters and the remedy."""

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
    """Training refuses it, or would learn something that is wrong."""
    return FindingKind("error", title, why, remedy)


def _warning(title: str, why: str, remedy: str) -> FindingKind:
    """It can be trained on, and costs accuracy or makes the numbers doubtful."""
    return FindingKind("warning", title, why, remedy)


def _note(title: str, why: str, remedy: str) -> FindingKind:
    """Nothing is wrong; it is good to know."""
    return FindingKind("note", title, why, remedy)


RECORD_KINDS = {
    "list-empty": _error(
        "A list of the file is empty",
        "without images or categories there is nothing to train on",
        FAULT_REMEDIES["list-empty"],
    ),
    "image-record": _error(
        "An image record cannot be used",
        "the image and its objects cannot be found by it",
        FAULT_REMEDIES["image-record"],
    ),
    "image-size-missing": _error(
        "An image record has no height and width",
        "outlines and run lengths have no meaning without it",
        FAULT_REMEDIES["image-size-missing"],
    ),
    "image-id-twice": _error(
        "Two image records have one id",
        "objects of one image would be learned on the other",
        FAULT_REMEDIES["image-id-twice"],
    ),
    "annotation-record": _error(
        "An annotation cannot be read", "it is no object with fields", FAULT_REMEDIES["annotation-record"]
    ),
    "annotation-id-missing": _warning(
        "An annotation has no id", "the COCO tools find annotations by it", "give it an id of its own"
    ),
    "annotation-id-twice": _error(
        "Two annotations have one id", "the COCO tools keep the last one only", FAULT_REMEDIES["annotation-id-twice"]
    ),
    "annotation-without-image": _error(
        "An annotation belongs to no image",
        "its image_id is not among the images",
        FAULT_REMEDIES["annotation-without-image"],
    ),
    "category-record": _error(
        "A category cannot be used", "a class needs a whole number as id and a name", FAULT_REMEDIES["category-record"]
    ),
    "category-id-twice": _error(
        "Two categories have one id", "objects cannot be told apart by it", FAULT_REMEDIES["category-id-twice"]
    ),
    "category-name-twice": _error(
        "Two categories have one name", "results are matched by name", FAULT_REMEDIES["category-name-twice"]
    ),
    "category-names-alike": _warning(
        "Category names differ in case or spaces only",
        "it looks like one class under two names",
        "merge them, or rename one",
    ),
    "category-unknown": _error(
        "An object has a label that is no category",
        "there is no class to learn",
        FAULT_REMEDIES["category-unknown"],
    ),
}
IMAGE_KINDS = {
    "picture-missing": _error(
        "An image is not in the folder",
        "training stops at it",
        "add the file, correct file_name, or remove its record",
    ),
    "picture-unlisted": _note(
        "Images are in the folder, but not in the file", "they are not trained on", "annotate them, or leave them"
    ),
    "picture-unreadable": _error(
        "A file is no image that can be read",
        "training stops at it",
        "copy or download it again, or remove its record",
    ),
    "picture-damaged": _error(
        "An image is damaged or incomplete",
        "its header is readable, its pixels are not",
        "copy or download it again, or remove its record",
    ),
    "picture-size": _error(
        "An image has another size than its record",
        "every outline lies in the wrong place",
        "restore the annotated image, or correct the record",
    ),
    "picture-turned": _error(
        "An image is turned by its EXIF orientation, its record is not",
        "it was annotated lying, and is shown upright: every outline lies in the wrong place",
        "remove the orientation tag (exiftool -Orientation= FILE), or annotate it again upright",
    ),
    "picture-orientation": _warning(
        "An image is mirrored or upside down by its EXIF orientation",
        "its size does not tell whether it was annotated with or without the turn",
        "look at it in the page; save it upright without the tag",
    ),
    "picture-listed-twice": _warning(
        "One image file has several image records",
        "the objects of the one are background in the other",
        "merge the records",
    ),
    "picture-copied": _warning(
        "One image under two names",
        "it counts twice, and its objects may be annotated in one copy only",
        "keep one of them",
    ),
    "picture-empty": _note(
        "Images without objects", "they are trained on as background", "check that nothing was forgotten in them"
    ),
}
OUTLINE_KINDS = {
    "outline-unknown": _error(
        "A segmentation is neither polygons nor run lengths",
        "there is no mask to learn",
        FAULT_REMEDIES["outline-unknown"],
    ),
    "polygon-flat": _error(
        "A polygon is not within a list of polygons",
        "COCO's segmentation is a list of polygons",
        FAULT_REMEDIES["polygon-flat"],
    ),
    "polygon-not-numbers": _error(
        "A polygon holds something else than finite numbers",
        "its outline is not known",
        FAULT_REMEDIES["polygon-not-numbers"],
    ),
    "polygon-odd": _error(
        "A polygon has an odd number of coordinates",
        "an x or a y is missing, and all after it are exchanged",
        FAULT_REMEDIES["polygon-odd"],
    ),
    "polygon-short": _error(
        "A polygon has fewer than three points", "it encloses nothing", FAULT_REMEDIES["polygon-short"]
    ),
    "polygon-taken-for-box": _error(
        "A polygon of four numbers is taken for a box",
        "the COCO tools read it as x, y, width, height",
        FAULT_REMEDIES["polygon-taken-for-box"],
    ),
    "polygon-no-area": _warning(
        "A polygon encloses no area", "it covers no pixel", "outline the object, or remove the polygon"
    ),
    "polygon-normalised": _error(
        "Polygon coordinates are fractions of the image",
        "COCO's are pixels; these all lie in the first one",
        "multiply them by width and height",
    ),
    "polygon-far": _error(
        "A polygon lies far outside the image",
        "it cannot be an outline in this image",
        FAULT_REMEDIES["polygon-far"],
    ),
    "polygon-outside": _warning(
        "A polygon reaches outside the image", "its outer part is cut off, its box may not be", "cut it at the border"
    ),
    "rle-size": _error(
        "Run lengths are of another image size",
        "their pixels would fall elsewhere",
        FAULT_REMEDIES["rle-size"],
    ),
    "rle-length": _error(
        "Run lengths do not fill the image", "their pixels would fall elsewhere", FAULT_REMEDIES["rle-length"]
    ),
    "rle-damaged": _error(
        "Run lengths cannot be decoded",
        "there is no mask to learn",
        FAULT_REMEDIES["rle-damaged"],
    ),
    "mask-empty": _warning(
        "A mask covers no pixel", "there is nothing to learn from it", "outline the object, or remove the annotation"
    ),
    "mask-missing": _note(
        "Objects without a mask",
        "on their images boxes are learned, masks are not",
        "outline them, or train boxes only",
    ),
    "crowd-value": _error(
        "iscrowd is neither 0 nor 1", "whether it is an object is not known", FAULT_REMEDIES["crowd-value"]
    ),
    "crowd-unsaid": _warning(
        "A run-length mask does not say iscrowd",
        "some tools take run lengths for crowds; here it is an object",
        "write iscrowd 0 for an object, 1 for a crowd",
    ),
    "crowd-polygon": _warning(
        "A crowd is outlined by polygons",
        "crowds are neither learned nor counted; some exports mark objects of several polygons so",
        "write iscrowd 0 if it is one object",
    ),
}
BOX_KINDS = {
    "object-empty": _error(
        "An annotation has neither box nor mask", "there is nothing to learn from it", FAULT_REMEDIES["object-empty"]
    ),
    "box-wrong": _error(
        "A box is not x, y, width, height",
        "the object cannot be found",
        FAULT_REMEDIES["box-wrong"],
    ),
    "box-missing": _note(
        "An annotation has no box", "here the mask's is taken; other tools need one", "write the mask's box"
    ),
    "box-empty": _warning(
        "A box is less than a pixel wide or high",
        "the object is left out of the training",
        "correct it, or remove the annotation",
    ),
    "box-outside": _warning("A box reaches outside the image", "its outer part is cut off", "cut it at the border"),
    "box-unlike-mask": _warning(
        "Box and mask do not belong together",
        "boxes are learned from one, masks from the other",
        "take the box of the mask",
    ),
    "box-whole-numbers": _note(
        "Boxes are cut to whole numbers", "they miss up to two pixels of finer outlines", "take the boxes of the masks"
    ),
    "area-missing": _note(
        "An annotation has no area", "AP of small, medium and large objects goes by it", "write the mask's area"
    ),
    "area-unlike-mask": _warning(
        "The stated area is not the mask's",
        "AP of small, medium and large objects goes by it, so they are counted in the wrong group",
        "take the area of the mask",
    ),
}
DATASET_KINDS = {
    "object-twice": _warning(
        "An object is annotated twice", "one of the two can only be missed or found double", "remove one"
    ),
    "object-two-classes": _warning(
        "One outline has two classes", "whichever is found, the other is missed", "remove the wrong one"
    ),
    "object-tiny": _note(
        "Objects smaller than one cell of the finest level",
        "the network hardly sees them",
        "train at a larger input size, or on crops",
    ),
    "class-absent": _warning(
        "A class has no object",
        "it cannot be learned (train) or measured (val)",
        "add examples, or remove the category",
    ),
    "class-rare": _note(
        "A class is rare",
        "it is seen too seldom to be learned well",
        "add examples, or set training.sampling.repeat_threshold",
    ),
    "picture-crowded": _warning(
        "An image has more objects than detections are allowed",
        "the rest is missed however good the model is",
        "raise inference.max_detections",
    ),
}
SPLIT_KINDS = {
    "categories-differ": _error(
        "Training and validation have different categories",
        "numbers would be of other classes",
        "use one list in both files",
    ),
    "category-ids-differ": _note(
        "A category has another id in the validation file",
        "here classes go by name; other tools by id",
        "use one list in both files",
    ),
    "picture-leaked": _warning(
        "An image is in training and validation",
        "the numbers say how well it was remembered",
        "take it out of one of them",
    ),
    "picture-leaked-alike": _warning(
        "Nearly the same image in training and validation",
        "the numbers say how well it was remembered",
        "keep copies, frames and crops of one image in one part",
    ),
    "picture-leaked-name": _note(
        "Training and validation have images of one name",
        "their content differs",
        "make sure that it is not one image, edited",
    ),
    "group-leaked": _warning(
        "One group is in training and validation",
        "its images belong together: crops, frames, one patient",
        "keep every group in one part",
    ),
}
SEMANTIC_KINDS = {
    "semantic-missing": _error(
        "An image has no semantic map", "training stops at it", "add the map, or derive all with --semantic auto"
    ),
    "semantic-unreadable": _error("A semantic map cannot be read", "training stops at it", "export it again as PNG"),
    "semantic-size": _error(
        "A semantic map has another size than its image",
        "its labels lie in the wrong place",
        "export it at the image's size, nearest neighbour",
    ),
    "semantic-mode": _error(
        "A semantic map holds colors, not class numbers",
        "its values are no labels",
        "export one 8-bit channel (gray or palette) with class numbers",
    ),
    "semantic-range": _error(
        "A semantic map holds values that are no class",
        "the loss fails at them",
        "correct the map, or set semantic.classes",
    ),
    "semantic-unlabelled": _warning(
        "A semantic map is ignored everywhere", "every pixel is 255", "export it again, if it should have labels"
    ),
}
LAYOUT_KINDS = {
    "layout-missing": _error("A part of the folder is missing", "training cannot find it", "put it there"),
    "layout-optional": _note(
        "Optional parts of the folder are missing", "training does without", "add them if you want them"
    ),
}
FINDING_KINDS: dict[str, FindingKind] = {
    **{**RECORD_KINDS, **IMAGE_KINDS, **OUTLINE_KINDS, **BOX_KINDS},
    **{**DATASET_KINDS, **SPLIT_KINDS, **SEMANTIC_KINDS, **LAYOUT_KINDS},
}

"""`htc export`: write a model to a file of another runtime, with a certificate of what the file computes."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from htc.cli.existing import check_files, check_folders
from htc.cli.model import check_named_models, fetch_weights, print_config_of
from htc.cli.options import Count, File, Flags, Folder, JsonTarget, ModelOptions, Name, Switch
from htc.cli.output import STDOUT, check_json_target, print_message, print_or_write_json, progress
from htc.compatibility import check_torch
from htc.exporting.target import check_target


def export(
    model: Annotated[str, Parameter(name="MODEL")],
    file: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    weights: Name | None = None,
    batch: Count | None = None,
    size: Annotated[tuple[int, int] | None, Parameter(metavar="HEIGHT WIDTH")] = None,
    raw_images: Switch = False,
    images: Folder | None = None,
    annotations: File | None = None,
    json: JsonTarget = None,
    config: File | None = None,
    print_config: Switch = False,
    flags: Flags = (),
) -> int:
    """Write a model to a file of another runtime, run the file there, and compare it with the model.

    The file gets its name only if it computes what the model does. FILE.json beside it is the certificate: differences,
    time and memory.

    Parameters
    ----------
    model
        A preset name, a folder that `htc train` or `htc convert` wrote, or a .pth or .safetensors file.
    file
        The new file; its suffix is the format: .onnx, or .xml for OpenVINO.
    weights
        A weights file, or the name of a preset with released weights, for a preset as MODEL.
    batch
        Number of images of a call. Default: any.
    size
        Height and width of the network input, to which images are padded; multiples of 32. Default: any.
    raw_images
        Make resizing, normalization and padding part of the file, which then takes one image as it is.
    images
        Folder of the images of the comparison. Default: bundled ones.
    annotations
        COCO annotations of the images: compares AP too.
    json
        Write the certificate to this JSON file too; - is standard output.
    config
        YAML or JSON file of settings, which override those of the preset or model.
    print_config
        Print the configuration as YAML for --config and exit.
    """
    settings = ModelOptions(config=config).settings(flags)
    if print_config:
        return print_config_of(model, weights, settings)
    check_target(file, batch, size, raw_images=raw_images)
    check_named_models([model], weights, None, settings)
    check_files({"--annotations": annotations})
    check_folders({"--images": images})
    check_json_target(json)
    check_torch()
    from htc.exporting.export import run_export
    from htc.exporting.graph import InputShape

    fetch_weights(weights if weights is not None else model)
    with progress("export") as bar:
        certificate = run_export(
            model,
            file,
            InputShape(batch, size),
            settings,
            bar,
            weights=weights,
            raw_images=raw_images,
            images=images,
            annotations=annotations,
        )
    if json != STDOUT:
        print("\n".join(certificate.lines()))
    print_or_write_json(json, certificate.to_dict())
    print_message(f"certificate: {file}.json\npredict with it: htc predict IMAGE --model {file}")
    return 0

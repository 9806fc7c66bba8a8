"""DetectoRS (Qiao et al. 2020, arXiv 2006.02334) under the full HTC: recursive feature pyramid and switchable atrous convolution."""

from collections.abc import Callable

from htc.config import Config, RecursiveFPN, ResNet, Training
from htc.presets.official import htc


def detectors(name: str) -> Config:
    """HTC R-50 with two looks at the picture; switchable deformable convolution in C3-C5 of both backbones; 12 epochs, as mmdetection's.

    Its model zoo reports 49.1 box and 42.6 mask AP (HTC R-50 without either: 42.3 and 37.4). Those weights are not loaded:
    they standardise the weights of every convolution, which is left out here, so their AP is theirs. Both backbones start from
    ImageNet. Meant for 8 GPUs of two pictures each (13.6 GB there). Nobody has trained this preset to the end yet.

        htc train --preset detectors_htc_r50 --data coco --semantic stuffthingmaps --devices 8
    """
    backbone = ResNet(depth=50, switchable="deformable", switchable_stages=(3, 4, 5), pretrained=True)
    return htc(name, backbone, Training()).model_copy(update={"neck": RecursiveFPN()})


DETECTORS: dict[str, Callable[[], Config]] = {"detectors_htc_r50": lambda: detectors("detectors_htc_r50")}

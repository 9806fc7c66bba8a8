"""DetectoRS (Qiao et al. 2020, arXiv 2006.02334) under the full HTC: recursive feature pyramid and switchable atrous
convolution.
"""

from collections.abc import Callable

from htc.config import FPN, Config, RecursiveFPN, ResNet, Training
from htc.presets.coco import htc


def detectors(name: str, *, recursive: bool, switchable: bool) -> Config:
    """HTC R-50 with either part or both; 12 epochs, as mmdetection's, whose model zoo has weights of all three.

    Two looks at the picture (recursive pyramid); switchable deformable convolution in C3-C5 of each backbone; weights
    of every convolution standardised. Meant for 8 GPUs of two pictures each (13.6 GB there), both backbones from
    ImageNet. Nobody has trained these presets to the end with this library yet.

        htc train --preset detectors_htc_r50_1x_coco --backbone.pretrained true --data coco --semantic stuffthingmaps
        --devices 8
    """
    where = {"switchable": "deformable", "switchable_stages": (3, 4, 5)} if switchable else {}
    backbone = ResNet(depth=50, standardised=True, **where)
    return htc(name, backbone, Training()).model_copy(update={"neck": RecursiveFPN() if recursive else FPN()})


DETECTORS: dict[str, Callable[[], Config]] = {
    "htc_r50_rfp_1x_coco": lambda: detectors("htc_r50_rfp_1x_coco", recursive=True, switchable=False),
    "htc_r50_sac_1x_coco": lambda: detectors("htc_r50_sac_1x_coco", recursive=False, switchable=True),
    "detectors_htc_r50_1x_coco": lambda: detectors("detectors_htc_r50_1x_coco", recursive=True, switchable=True),
}

"""Table 7 of the paper (arXiv 1901.07518), row by row: from 38.4 to 44.3 mask AP on test-dev, and the members of its
ensemble.

Each row adds one component to the row above. Details that the paper omits are chosen as follows: deformable convolution
is v1 (Dai et al. 2017) in res5; with SyncBN, the backbone's batch norms are trained, and neck, semantic branch, mask
heads and box heads get norms. Since the paper's box heads, two fully connected layers, cannot have a norm, they become
four convolutions and one fully connected layer (4conv1fc). Training: 20 epochs, 16 GPUs with one image each; in one
process the learning rate scales with the batch size. All start from ImageNet weights, downloaded when training starts,
except FishNet: timm has no weights of it, so it starts from a file that you pass (the authors'), else from scratch.

    htc train --preset htc_r50_dcn_syncbn_mstrain_table7 --data coco --semantic stuffthingmaps
    htc train --preset htc_fishnet150_table7 --backbone.pretrained FILE --data coco --semantic stuffthingmaps
"""

from collections.abc import Callable

from htc.config import Backbone, Config, FishNet, Input, ResNet, Timm
from htc.presets.coco import htc
from htc.presets.paper import paper

DPN_INPUT = Input(mean=(124.0, 117.0, 104.0), std=(59.88, 59.88, 59.88))
"""Input normalization of DPN's ImageNet weights."""


def deformable(config: Config) -> Config:
    """Add deformable convolution in res5 (+ DCN, 39.5)."""
    return config.replace(backbone={"deformable": "v1", "deformable_stages": (5,)})


def synchronised(config: Config) -> Config:
    """Add SyncBN in backbone and heads (40.7)."""
    heads = {"mask_norm": "sync", "box_convs": 4, "box_fcs": 1, "box_norm": "sync"}
    return config.replace(
        backbone={"norm": "sync", "frozen_stages": -1},
        neck={"norm": "sync"},
        semantic={"norm": "sync"},
        cascade=heads,
    )


def multi_scale(config: Config) -> Config:
    """Add multi-scale training: for a short edge of 800, 400-1400, long edge 1600 (42.5 with ResNet-50, 44.3 with
    SENet-154).
    """
    short = config.input.short_edge
    other_ways = {"short_edge_choices": None, "jitter": None, "resize": True}
    drawn = {"short_edges": (short // 2, short * 7 // 4), "long_edge": 2 * short}
    return config.replace(training={"augmentation": {**other_ways, **drawn}})


def _start(name: str) -> Config:
    return paper(htc(name, ResNet(depth=50, pretrained=True)))


def _member(name: str, backbone: Backbone, network_input: Input | None = None) -> Config:
    """HTC with all components above and a larger backbone."""
    config = multi_scale(synchronised(_start(name)))
    return config.replace(backbone=backbone, input=network_input or config.input)


def resnext(base_width: int, groups: int) -> ResNet:
    """ResNeXt-101 as an ensemble member."""
    return ResNet(
        depth=101,
        groups=groups,
        base_width=base_width,
        norm="sync",
        frozen_stages=-1,
        deformable="v1",
        deformable_stages=(5,),
        pretrained=True,
    )


SENET154 = Timm(name="legacy_senet154", norm="sync", deformable="v1", deformable_stages=(5,), pretrained=True)
DPN107 = Timm(name="dpn107", norm="sync", deformable="v1", deformable_stages=(5,), pretrained=True)
FISHNET150 = FishNet(depth=150, norm="sync")
"""The paper only says FishNet; this is the largest published one of that time, without deformable convolution (it has
no res5).
"""

TABLE7: dict[str, Callable[[], Config]] = {
    "htc_r50_dcn_table7": lambda: deformable(_start("htc_r50_dcn_table7")),
    "htc_r50_dcn_syncbn_table7": lambda: synchronised(deformable(_start("htc_r50_dcn_syncbn_table7"))),
    "htc_r50_dcn_syncbn_mstrain_table7": lambda: multi_scale(
        synchronised(deformable(_start("htc_r50_dcn_syncbn_mstrain_table7")))
    ),
    "htc_senet154_table7": lambda: _member("htc_senet154_table7", SENET154),
    "htc_x101_64x4d_table7": lambda: _member("htc_x101_64x4d_table7", resnext(4, 64)),
    "htc_x101_32x8d_table7": lambda: _member("htc_x101_32x8d_table7", resnext(8, 32)),
    "htc_dpn107_table7": lambda: _member("htc_dpn107_table7", DPN107, DPN_INPUT),
    "htc_fishnet150_table7": lambda: _member("htc_fishnet150_table7", FISHNET150),
}

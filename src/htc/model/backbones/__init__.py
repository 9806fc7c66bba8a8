"""Backbones other than ResNet (`htc.model.backbone`): (B, 3, H, W) -> [C2, C3, C4, C5] at strides 4 to 32."""

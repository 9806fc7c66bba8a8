"""The original's parameter names, in all its versions, and ours."""

import re

# (pattern, replacement), first match wins. `{i}` without a stage index is Mask R-CNN's only stage.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.(layer\d\.\d+)\.conv2_offset\.(\w+)$", r"backbone.\1.conv2.conv_offset.\2"),
        (r"^neck\.rfp_modules\.0\.layer2\.0\.rfp_conv\.", "second_look.feedback.0."),
        (r"^neck\.rfp_modules\.0\.layer3\.0\.rfp_conv\.", "second_look.feedback.1."),
        (r"^neck\.rfp_modules\.0\.layer4\.0\.rfp_conv\.", "second_look.feedback.2."),
        (r"^neck\.rfp_modules\.0\.", "second_look.backbone."),
        (r"^neck\.rfp_aspp\.aspp\.0\.", "second_look.context.point."),
        (r"^neck\.rfp_aspp\.aspp\.1\.", "second_look.context.dilated.0."),
        (r"^neck\.rfp_aspp\.aspp\.2\.", "second_look.context.dilated.1."),
        (r"^neck\.rfp_aspp\.aspp\.3\.", "second_look.context.mean."),
        (r"^neck\.rfp_weight\.", "second_look.weight."),
        (r"^neck\.lateral_convs\.(\d+)\.", r"neck.lateral.\1."),
        (r"^neck\.fpn_convs\.(\d+)\.", r"neck.output.\1."),
        (r"^neck\.downsample_convs\.(\d+)\.", r"neck.downsample.\1."),
        (r"^neck\.pafpn_convs\.(\d+)\.", r"neck.bottom_up.\1."),
        (r"^rpn_head\.rpn_conv\.", "rpn.conv."),
        (r"^rpn_head\.rpn_cls\.", "rpn.objectness."),
        (r"^rpn_head\.rpn_reg\.", "rpn.deltas."),
        (r"^rpn_head\.conv_loc\.", "rpn.location."),
        (r"^rpn_head\.conv_shape\.", "rpn.shape."),
        (r"^rpn_head\.feature_adaption\.conv_offset\.", "rpn.adaption.offset."),
        (r"^rpn_head\.feature_adaption\.conv_adaption\.", "rpn.adaption.conv."),
        (r"^rpn_head\.conv_cls\.", "rpn.objectness."),
        (r"^rpn_head\.conv_reg\.", "rpn.deltas."),
        (r"^bbox_head\.(\d+)\.shared_fcs\.(\d+)\.", r"roi.box_heads.\1.fc.\2."),
        (r"^bbox_head\.(\d+)\.fc_cls\.", r"roi.box_heads.\1.classify."),
        (r"^bbox_head\.(\d+)\.fc_reg\.", r"roi.box_heads.\1.regress."),
        (r"^mask_head\.(\d+)\.convs\.(\d+)\.", r"roi.mask_heads.\1.convs.\2."),
        (r"^mask_head\.(\d+)\.upsample\.", r"roi.mask_heads.\1.upsample."),
        (r"^mask_head\.(\d+)\.conv_logits\.", r"roi.mask_heads.\1.logits."),
        (r"^semantic_head\.lateral_convs\.(\d+)\.", r"semantic.lateral.\1."),
        (r"^semantic_head\.convs\.(\d+)\.", r"semantic.convs.\1."),
        (r"^semantic_head\.conv_logits\.", "semantic.logits."),
        (r"^semantic_head\.conv_embedding\.", "semantic.embedding."),
    )
)
_FLOW = re.compile(r"^mask_head\.(\d+)\.conv_res\.")
_WITHOUT_STAGE = re.compile(r"^(bbox_head|mask_head)\.(?!\d)")
# Of switchable and of standardised convolutions (DetectoRS).
_CONVOLUTION = {
    ".weight_gamma": ".standard.gamma",
    ".weight_beta": ".standard.beta",
    ".weight_diff": ".difference",
    ".pre_context.": ".before.",
    ".post_context.": ".after.",
    ".offset_s.": ".offsets.0.",
    ".offset_l.": ".offsets.1.",
}
# A convolution's own norm is called after its kind there, `norm` here; the backbone keeps the original's names.
_NORM = re.compile(r"\.(bn|gn)\.(?=\w+$)")


def our_name(name: str) -> str:
    """Our name for a parameter of the original (any version, `module.` already stripped); unknown names come back
    unchanged.
    """
    plain = _WITHOUT_STAGE.sub(r"\1.0.", name.removeprefix("roi_head."))
    flow = _FLOW.match(plain)
    if flow and int(flow[1]) > 0:
        return _inside(f"roi.mask_flows.{int(flow[1]) - 1}.{plain[flow.end() :]}")
    for pattern, replacement in _RULES:
        if pattern.match(plain):
            return _inside(pattern.sub(replacement, plain))
    return _inside(name) if name.startswith("backbone.") else name


def _inside(name: str) -> str:
    """The last parts of a name whose first ones are ours already."""
    if not name.startswith(("backbone.", "second_look.backbone.")):
        return _NORM.sub(".norm.", name)
    for theirs, ours in _CONVOLUTION.items():
        name = name.replace(theirs, ours)
    return name


def reason_to_drop(name: str) -> str | None:
    """Why a tensor of the original is of no use to any model of ours, or None."""
    if name.startswith(("ema_", "ema.")):
        return "a moving average saved beside the weights"
    if name.startswith("data_preprocessor."):
        return "the input's mean and deviation, which are configuration"
    if re.match(r"^(roi_head\.)?mask_head\.0\.conv_res\.", name):
        return "never used: the first mask head has no predecessor"
    return None

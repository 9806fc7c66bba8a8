"""A user's module as the backbone: any network that returns four feature maps of strides 4, 8, 16 and 32."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from htc.config import Config, CustomBackbone
from htc.errors import ConfigError
from htc.model.backbones.timm_features import BACKBONE_STRIDES

PROBE = 128
"""Side of the zero image that a module is run on to find the channels of its feature maps."""
NEEDED = (
    "a backbone must return four maps (B, C, H / s, W / s) of strides s = 4, 8, 16 and 32, as a list, tuple or dict"
)

Channels = tuple[int, int, int, int]
"""Channels of C2, C3, C4 and C5."""


class CustomFeatures(nn.Module):
    """C2-C5 of a user's module; its parameters are named `body.<name in the module>`.

    `channels` are the module's attribute `channels` if that is a sequence of four integers; otherwise the module is run
    once on a zero image, in evaluation mode and without gradients. Raises `ConfigError` if it does not return four maps
    of strides 4, 8, 16 and 32.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        stated = _stated_channels(body)
        self.channels: Channels = _probed_channels(body) if stated is None else stated

    @property
    def name(self) -> str:
        """Module and class of the user's code, as recorded in the configuration."""
        return _name_of(self.body)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> [C2, C3, C4, C5]."""
        maps = _maps_of(self.body(x), self.name)
        # In an exported graph, sizes may be symbols, which a comparison would make constant.
        if not torch.compiler.is_compiling():
            _check_maps(maps, (x.shape[2], x.shape[3]), self.name, self.channels)
        return maps


def with_custom(config: Config, module: nn.Module) -> tuple[Config, CustomFeatures]:
    """Return a configuration that records `module` as its backbone, and the module as `CustomFeatures`; raises
    `ConfigError`.
    """
    features = module if isinstance(module, CustomFeatures) else CustomFeatures(module)
    return config.replace(backbone=CustomBackbone(name=features.name, channels=features.channels)), features


def stand_in(config: CustomBackbone) -> CustomFeatures:
    """Build a backbone without parameters that has the recorded channels, for uses that need only the rest of the
    detector.
    """
    body = nn.Identity()
    body.channels = config.channels  # type: ignore[assignment]
    return CustomFeatures(body)


def _name_of(body: nn.Module) -> str:
    return f"{type(body).__module__}.{type(body).__name__}"


def _stated_channels(body: nn.Module) -> Channels | None:
    stated: Any = getattr(body, "channels", None)
    if not isinstance(stated, Sequence) or len(stated) != len(BACKBONE_STRIDES):
        return None
    return _channels(stated) if all(type(value) is int and value > 0 for value in stated) else None


def _channels(values: Sequence[int]) -> Channels:
    c2, c3, c4, c5 = values
    return c2, c3, c4, c5


def _probed_channels(body: nn.Module) -> Channels:
    name = _name_of(body)
    like = next(body.parameters(), torch.zeros((), device="cpu"))
    image = torch.zeros(1, 3, PROBE, PROBE, dtype=like.dtype, device=like.device)
    modes = {part: part.training for part in body.modules()}
    try:
        with torch.no_grad():
            output = body.eval()(image)
    except Exception as error:
        raise ConfigError(
            f"backbone {name} fails on a zero image of shape {tuple(image.shape)}: {type(error).__name__}: {error}. "
            f"If it needs another size, add an attribute `channels` with the channels of its four maps"
        ) from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    maps = _maps_of(output, name)
    _check_maps(maps, (PROBE, PROBE), name)
    return _channels([feature.shape[1] for feature in maps])


def _maps_of(output: Any, name: str) -> list[Tensor]:
    """Convert the module's output to a list; a dictionary keeps its order."""
    maps = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(maps, list | tuple) or not all(isinstance(feature, Tensor) for feature in maps):
        raise ConfigError(f"backbone {name} returns a {type(output).__name__}; {NEEDED}")
    return list(maps)


def _check_maps(maps: list[Tensor], size: tuple[int, int], name: str, channels: Channels | None = None) -> None:
    """Raise `ConfigError` for a wrong number of maps, wrong strides, or channels that differ from `channels`."""
    sides = [tuple(feature.shape[2:]) for feature in maps]
    wanted = [(size[0] // stride, size[1] // stride) for stride in BACKBONE_STRIDES]
    whole = not any(side % BACKBONE_STRIDES[-1] for side in size)
    if len(maps) != len(wanted) or any(feature.ndim != 4 for feature in maps) or (whole and sides != wanted):
        shapes = ", ".join(str(tuple(feature.shape)) for feature in maps) or "none"
        raise ConfigError(f"backbone {name} maps images of {size[0]}x{size[1]} pixels to the shapes {shapes}; {NEEDED}")
    given = tuple(feature.shape[1] for feature in maps)
    if channels is not None and given != channels:
        raise ConfigError(
            f"backbone {name} returns maps with {given} channels, but its attribute `channels` is {channels}"
        )

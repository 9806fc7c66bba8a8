"""Old names of configuration fields: files of older versions load silently, a user is warned once and understood."""

import json
import warnings
from pathlib import Path

import pytest
import yaml

import htc
from htc.checkpoint.folder import read_config
from htc.config import Config, GuidedRPN, ResNet
from htc.config.base import Section, sections_of
from htc.errors import ConfigError, RenamedWarning
from htc.presets import PRESETS, preset
from htc.settings.layers import from_environment, from_file, from_flags, from_values, resolve, to_yaml

OLD = {"standardized": "standardised", "center_fraction": "centre_fraction"}
GUIDED = preset("htc_r18_small").replace(rpn=GuidedRPN(center_fraction=0.25), backbone={"standardized": True})


def old_text(text: str) -> str:
    for new, old in OLD.items():
        assert new in text
        text = text.replace(new, old)
    return text


def test_a_stored_configuration_loads_silently(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(old_text(GUIDED.model_dump_json()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_config(tmp_path / "config.json") == GUIDED


def test_a_stored_yaml_file_loads_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(old_text(to_yaml(GUIDED)))
    with pytest.warns(RenamedWarning) as caught:
        assert resolve(from_file(path), "htc_r18_small") == GUIDED
    assert [str(one.message) for one in caught] == [
        f"{path}: backbone.standardised: standardised is now called standardized; the next release rejects the old "
        f"name",
        f"{path}: rpn.centre_fraction: centre_fraction is now called center_fraction; the next release rejects the old "
        f"name",
    ]


def test_flags_environment_and_python_take_the_old_name() -> None:
    wanted = preset("htc_r50_fpn_1x_coco").replace(backbone={"standardized": True})
    with pytest.warns(RenamedWarning, match=r"--backbone\.standardised: standardised is now called standardized"):
        settings = from_flags([("backbone.standardised", "true")])
    assert (settings[0].path, settings[0].value) == (("backbone", "standardized"), True)
    assert resolve(settings, "htc_r50_fpn_1x_coco") == wanted
    with pytest.warns(RenamedWarning, match="HTC_BACKBONE__STANDARDISED: "):
        assert resolve(from_environment({"HTC_BACKBONE__STANDARDISED": "1"}), "htc_r50_fpn_1x_coco") == wanted
    with pytest.warns(RenamedWarning, match="overrides: "):
        assert resolve(from_values({"backbone": {"standardised": True}}), "htc_r50_fpn_1x_coco") == wanted
    with pytest.warns(RenamedWarning, match="ResNet: "):
        assert preset("htc_r50_fpn_1x_coco").replace(backbone={"standardised": True}) == wanted
    with pytest.warns(RenamedWarning, match="ResNet: "):
        assert ResNet(standardised=True) == wanted.backbone  # type: ignore[call-arg]


def test_both_names_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="standardised is the old name of standardized: use only one"):
        preset("htc_r50_fpn_1x_coco").replace(backbone={"standardised": True, "standardized": True})
    text = json.dumps(ResNet().model_dump() | {"standardised": True})
    with pytest.raises(ValueError, match="standardised is the old name of standardized"):
        ResNet.model_validate_json(text)


def test_an_old_name_of_another_variant_is_still_unknown() -> None:
    settings = from_values({"rpn": {"kind": "rpn", "centre_fraction": 0.3}})
    with pytest.raises(ConfigError, match=r"rpn.center_fraction|rpn.centre_fraction"):
        resolve(settings, "htc_r50_fpn_1x_coco")


def sections(model: type[Section]) -> set[type[Section]]:
    inner = [one for field in model.model_fields.values() for one in sections_of(field.annotation)]
    return {model}.union(*(sections(one) for one in inner))


def test_new_names_exist_and_old_ones_do_not() -> None:
    renamed = {old: (section, new) for section in sections(Config) for old, new in section.renamed_fields.items()}
    assert {old: new for old, (_, new) in renamed.items()} == {old: new for new, old in OLD.items()}
    for old, (section, new) in renamed.items():
        assert new in section.model_fields
        assert old not in section.model_fields


def test_no_preset_uses_an_old_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RenamedWarning)
        for name in PRESETS:
            assert resolve(from_values(yaml.safe_load(to_yaml(preset(name)))), name) == preset(name)


def test_the_warning_is_of_the_kind_that_users_see() -> None:
    assert issubclass(RenamedWarning, FutureWarning)
    assert issubclass(htc.ConfigError, ValueError)

"""Base of every part of the configuration: frozen pydantic models with bounded numbers and validated copies."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from warnings import warn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from htc.errors import ConfigError, RenamedWarning

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Percentage = Annotated[float, Field(ge=0, le=100)]
PositiveFloat = Annotated[float, Field(gt=0)]
Quad = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]
Precision = Literal["fp32", "bf16"]
"""Precision of the network's arithmetic; box arithmetic is always fp32."""


class Section(BaseModel):
    """A part of the configuration: immutable, rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    renamed_fields: ClassVar[Mapping[str, str]] = {}
    """Old names of fields, accepted for one release: {old: new}."""

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, Mapping) or cls.renamed_fields.keys().isdisjoint(values):
            return values
        # JSON was written by an older version: no warning, since the user cannot change it.
        return with_current_names(cls, values, None if info.mode == "json" else cls.__name__)

    def replace(self, **changes: Any) -> Self:
        """Make a validated copy with other values of the given fields.

        A nested section is given as a section object, which replaces the old one, or as a dictionary of changes to it:
        `config.replace(inference={"max_detections": 300})`. A dictionary with another `kind` replaces the whole
        variant, with defaults for its other fields. Values that must agree, such as the tuples with one value per
        stage, must be changed in one call. Raises `ConfigError` that lists every invalid field.
        """
        try:
            return self.model_validate(_merged(self, changes))
        except ValidationError as error:
            raise ConfigError(field_errors(error, type(self))) from None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """pydantic's copy. `update` raises `ConfigError`, since pydantic would not validate its values."""
        if update:
            raise ConfigError(f"model_copy(update=...) does not validate {', '.join(update)}: use replace(...)")
        return super().model_copy(deep=deep)


def _merged(section: Section, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the changes into the section's values; a dictionary is merged into the nested section of its kind."""
    values = dict(section)
    for name, change in with_current_names(type(section), changes, type(section).__name__).items():
        current = values.get(name)
        if isinstance(change, Mapping) and isinstance(current, Section):
            kind = dict(current).get("kind")
            values[name] = _merged(current, change) if change.get("kind", kind) == kind else dict(change)
        else:
            values[name] = change
    return values


def with_current_names(section: type[Section], values: Mapping[str, Any], source: str | None) -> dict[str, Any]:
    """Rename old field names in `values` to the current ones; each gives a `RenamedWarning`.

    `source` is the origin of the values, for the warning; None: no warning. Raises `ConfigError` if a field is given
    under both names.
    """
    current: dict[str, Any] = {}
    for name, value in values.items():
        new = section.renamed_fields.get(name, name)
        if new != name and new in values:
            raise ConfigError(f"{name} is the old name of {new}: use only one of them")
        if new != name and source is not None:
            warn_of_old_name(source, name, new)
        current[new] = value
    return current


def warn_of_old_name(source: str, old: str, new: str) -> None:
    """Warn that an old name is used (`RenamedWarning`)."""
    warn(f"{source}: {old} is now called {new}; the next release rejects the old name", RenamedWarning, stacklevel=3)


def sections_of(annotation: object) -> list[type[Section]]:
    """The section classes in a type annotation: one, several variants of a union, or none for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_of(part)]


_SHOWN = 200
"""Letters of a wrong value that a message shows."""


def field_errors(error: ValidationError, model: type[Section]) -> str:
    """Format all validation errors of `model` in one line: `field: reason (got value); field: ...`."""
    return "; ".join(_field_error(details, model) for details in error.errors(include_url=False))


def _field_error(details: ErrorDetails, model: type[Section]) -> str:
    path, siblings = _located(details["loc"], model)
    name = ".".join(path) or "configuration"
    match details["type"]:
        case "value_error":
            return f"{name}: {details['msg'].removeprefix('Value error, ')}"
        case "missing":
            return f"{name}: a value is missing"
        case "extra_forbidden":
            near = get_close_matches(path[-1], siblings, n=1)
            return f"{name}: there is no such field{f'; did you mean {near[0]}?' if near else ''}"
        case "json_invalid":
            return details["msg"]
    given = repr(details["input"])
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]} ..."
    return f"{name}: {details['msg'].replace('Input should', 'should', 1)} (got {shown})"


def _located(location: tuple[int | str, ...], model: type[Section]) -> tuple[list[str], list[str]]:
    """Path of field names of an error, and the fields beside the last one.

    pydantic's location also contains the variant of a union (neck, fpn, channels), which is removed.
    """
    path: list[str] = []
    inside, beside = [model], [model]
    for part in location:
        chosen = [section for section in inside if "kind" in section.model_fields and _kind(section) == part]
        if chosen and not any(part in section.model_fields for section in inside):
            inside = chosen
            continue
        path.append(str(part))
        beside = inside
        fields = [section.model_fields[part] for section in inside if part in section.model_fields]  # type: ignore[index]
        inside = [section for field in fields for section in sections_of(field.annotation)]
    return path, [name for section in beside for name in section.model_fields]


def _kind(section: type[Section]) -> Any:
    return section.model_fields["kind"].default

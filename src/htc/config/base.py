"""What every part of the configuration is made of: frozen pydantic models with bounded numbers and validated copies."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from warnings import warn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails

from htc.errors import ConfigError, RenamedWarning

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Quad = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]
Precision = Literal["fp32", "bf16"]
"""Of the network's arithmetic; box arithmetic is always fp32."""


class Section(BaseModel):
    """A part of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    renamed_fields: ClassVar[Mapping[str, str]] = {}
    """Old names of fields, accepted for one release: {old: new}."""

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, Mapping) or cls.renamed_fields.keys().isdisjoint(values):
            return values
        # JSON is what an older version stored: nobody can be asked to change it.
        return with_current_names(cls, values, None if info.mode == "json" else cls.__name__)

    def replace(self, **changes: Any) -> Self:
        """A validated copy with other values of the named fields.

        A nested section is given as a section object, which takes the place of the old one, or as a dictionary of
        changes to it: `config.replace(inference={"max_detections": 300})`. A dictionary with another `kind` replaces
        the whole variant, whose other fields get their defaults. Values that must agree, such as the tuples with one
        value per stage, belong into one call. Raises `ConfigError` that names every field that cannot be used.
        """
        try:
            return self.model_validate(_merged(self, changes))
        except ValidationError as error:
            raise ConfigError(field_errors(error, type(self))) from None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """pydantic's copy. `update` raises `ConfigError`: pydantic would take its values without validation."""
        if update:
            raise ConfigError(f"model_copy(update=...) does not validate {', '.join(update)}: use replace(...)")
        return super().model_copy(deep=deep)


def _merged(section: Section, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The section's values with the changes over them; a dictionary is merged into the nested section of its kind."""
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
    """`values` of that section with its fields' current names; an old name gives a `RenamedWarning`.

    `source` is where the values come from, for the warning; None: no warning. Raises `ConfigError` if a field is given
    under both names.
    """
    current: dict[str, Any] = {}
    for name, value in values.items():
        new = section.renamed_fields.get(name, name)
        if new != name and new in values:
            raise ConfigError(f"{name} is the old name of {new}: give one of them")
        if new != name and source is not None:
            warn_of_old_name(source, name, new)
        current[new] = value
    return current


def warn_of_old_name(source: str, old: str, new: str) -> None:
    """Give the `RenamedWarning` of one name."""
    warn(f"{source}: {old} is now called {new}; the old name goes with the next release", RenamedWarning, stacklevel=3)


def sections_of(annotation: object) -> list[type[Section]]:
    """The sections that a type allows: one, several variants of a union, or none for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_of(part)]


def field_errors(error: ValidationError, model: type[Section]) -> str:
    """All errors of a validation of `model` in one line: `field: reason (got value); field: ...`."""
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
    return f"{name}: {details['msg'].replace('Input should', 'should', 1)} (got {details['input']!r})"


def _located(location: tuple[int | str, ...], model: type[Section]) -> tuple[list[str], list[str]]:
    """The path of field names of an error, and the fields beside its last one.

    pydantic's location also names the variant of a union (neck, fpn, channels), which the path leaves out.
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

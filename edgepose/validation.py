"""Settings, manuals and manifests checked against a pydantic model, with faults told as one sentence."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgepose.errors import EdgeposeError, nearest
from edgepose.redact import redact

M = TypeVar("M", bound=BaseModel)
LONGEST_SHOWN = 1000  # characters
STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)  # no unknown key, NaN or infinity


def validate(model: type[M], values: object, where: str) -> M:
    """``values`` as ``model``; the first fault becomes one sentence that starts with ``where``."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise EdgeposeError(f"{where}: {first_fault(model, error)}") from error


def first_fault(model: type[BaseModel], error: ValidationError) -> str:
    """The most telling fault of ``error`` as one sentence; an unknown key names the nearest known one."""
    fault = telling_fault(error)
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = known_keys(model, fault["loc"][:-1])
        close = nearest(str(fault["loc"][-1]), known)
        hint = f"did you mean '{close}'?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key '{path}'; {hint}"
    if fault["type"] == "missing":
        return f"key '{path}' is missing; add it"
    given = fault["input"]
    value = "" if isinstance(given, dict | list) else f" (it is {shown(given)})"
    message = _in_toml(fault) or fault["msg"].removeprefix("Value error, ")
    return f"key '{path}'{value}: {message}" if path else message


def _in_toml(fault: Any) -> str:
    """What is to be written instead, where pydantic speaks of Python's types and patterns; else empty."""
    kind, name = fault["type"], fault["loc"][-1] if fault["loc"] else ""
    if kind == "list_type" and isinstance(fault["input"], dict):
        return f"there may be several; write [[{name}]], with two brackets"
    if kind in ("model_type", "model_attributes_type", "dict_type") and isinstance(name, str):
        return f"it is a table; write [{name}], and its keys below"
    if kind in ("list_type", "tuple_type"):
        return "it must be a list, in one more pair of brackets"
    if kind == "string_pattern_mismatch" and "A-Za-z0-9_.-" in fault["ctx"]["pattern"]:
        return "use letters, digits, '_', '.' and '-' alone"
    return ""


def shown(given: object) -> str:
    """``given`` as it would be written, without secrets."""
    if isinstance(given, str) and len(given) > LONGEST_SHOWN:
        return f"a text of {len(given)} characters"  # cut off, it might show what redact would have masked
    try:
        return repr(redact(given) if isinstance(given, str) else given)
    except ValueError:  # Python writes no number of thousands of digits
        return "a very long number"


def telling_fault(error: ValidationError) -> Any:
    """The fault to name: a misspelt key often leaves another one missing, and the misspelling is what helps."""
    return min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")


def known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that ``model`` takes at ``path``; empty where the path leads nowhere."""
    current: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        current = _inner_model(field.annotation)
    return sorted(getattr(current, "model_fields", {}))


def _inner_model(annotation: Any) -> Any:
    """The model inside ``list[Model]``, ``Model | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None

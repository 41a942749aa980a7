"""Objects of /v1/responses that are told apart by their `type`."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BeforeValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from evoserve.api.field import Body


def one_of(*models: type[Body]) -> BeforeValidator:
    """For a union of `models`: check an object as the one of its `type`.

    The first model may have a `type` that is left out. Unlike a tagged union of pydantic's, this
    puts no tag into the places of errors.
    """
    kinds = {kind: model for model in models for kind in _kinds(model)}
    default = models[0].model_fields["type"].get_default()

    def check(value: object) -> Body:
        if not isinstance(value, dict):
            raise PydanticCustomError("object_type", "must be an object")
        kind = value.get("type", default)
        model = kinds.get(kind) if isinstance(kind, str) else None
        if model is None:
            raise _unknown(value, kinds)
        return model.model_validate(value)

    return BeforeValidator(check)


def _kinds(model: type[Body]) -> tuple[str, ...]:
    return get_args(model.model_fields["type"].annotation)


def _unknown(value: Mapping[str, Any], kinds: Mapping[str, type[Body]]) -> ValidationError:
    kind: str | PydanticCustomError = "missing"
    if "type" in value:
        allowed = {"kinds": ", ".join(kinds)}
        kind = PydanticCustomError("unsupported", "only {kinds} are supported", allowed)
    detail = InitErrorDetails(type=kind, loc=("type",), input=value.get("type"))
    return ValidationError.from_exception_data("type", [detail])

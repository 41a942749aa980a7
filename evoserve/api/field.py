"""Types of fields that bodies of the HTTP API are made of."""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_before_validator_function

MAX_STOP_CHARS = 1024
MAX_TOKEN_ID = 2**31 - 1


def only(*harmless: object) -> "_Only":
    """Refuse everything but null and `harmless`, values that ask for what happens anyway."""
    return _Only(harmless)


class _Only:
    """How pydantic checks such a field, and what the document says of it."""

    def __init__(self, harmless: tuple[object, ...]) -> None:
        self._harmless = harmless

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """pydantic's."""
        return no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """pydantic's."""
        del schema, handler
        return {"enum": [None, *self._harmless]}

    def _check(self, value: object) -> None:
        same = (type(value) is type(each) and value == each for each in self._harmless)
        if value is None or any(same):
            return
        allowed = " or ".join(["null", *map(repr, self._harmless)])
        raise PydanticCustomError(
            "unsupported",
            "not supported yet; leave it out or send {allowed}",
            {"allowed": allowed},
        )


Schema = dict[str, Any]
Refused = Annotated[None, only()]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
ModelName = Annotated[str, Field(min_length=1, max_length=512)]


class Body(BaseModel):
    """Frozen; unknown fields and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

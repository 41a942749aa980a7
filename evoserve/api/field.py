"""Types of fields that bodies of the HTTP API are made of."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_STOP_CHARS = 1024
MAX_TOKEN_ID = 2**31 - 1


def only(*harmless: object) -> BeforeValidator:
    """Refuse everything but null and `harmless`, values that ask for what happens anyway."""

    def check(value: object) -> None:
        if value is None or any(value == allowed for allowed in harmless):
            return
        allowed = " or ".join(["null", *map(repr, harmless)])
        raise PydanticCustomError(
            "unsupported",
            "not supported yet; leave it out or send {allowed}",
            {"allowed": allowed},
        )

    return BeforeValidator(check)


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

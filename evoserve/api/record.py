"""What is known of the request that is being served: for its log line, metrics and trace."""

import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

ANONYMOUS = "anonymous"

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CURRENT: ContextVar["RequestRecord | None"] = ContextVar("evoserve_request", default=None)


@dataclass(frozen=True)
class Timing:
    """One sequence: when it was submitted (seconds since 1970), and seconds from there on.

    first_token_s: None if no token came; queued_s: until the engine took it up.
    """

    model_id: str
    submitted: float
    queued_s: float
    first_token_s: float | None
    end_s: float
    num_prompt_tokens: int
    num_generated_tokens: int
    reason: str


class Trace(Protocol):
    """The open trace of a request."""

    def sequence(self, timing: Timing) -> None:
        """A sequence of the request is over."""
        ...

    def end(self, record: "RequestRecord", method: str, status: int) -> None:
        """The request is over."""
        ...


@dataclass(eq=False, slots=True)
class RequestRecord:
    """Filled while the request goes through; it never holds a key or what a prompt says.

    headers: to be sent with the answer.
    """

    id: str
    route: str = "unmatched"
    key_name: str = ANONYMOUS
    recipe: str | None = None
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    trace: Trace | None = None
    start_s: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.start_s


def choose_request_id(given: str | None) -> str:
    """The client's id if it is short and plain, else a new one."""
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return f"req-{uuid.uuid4().hex}"


def start_record(request_id: str) -> RequestRecord:
    """A record that is `current_record` for this task and those it starts."""
    record = RequestRecord(request_id)
    _CURRENT.set(record)
    return record


def current_record() -> RequestRecord:
    """The record of the request being served; outside of one, a record that nobody reads."""
    return _CURRENT.get() or RequestRecord("none")


def current_request_id() -> str | None:
    """The id of the request being served, None outside of one."""
    record = _CURRENT.get()
    return None if record is None else record.id

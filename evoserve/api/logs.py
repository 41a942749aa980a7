"""The log: one line per record, as text or JSON, each with the id of the request it belongs to."""

import json
import logging
import time
from collections.abc import Mapping

from evoserve.api.record import RequestRecord, current_request_id
from evoserve.config import Settings

PROBES = frozenset({"/live", "/ready", "/health", "/metrics"})
TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

_ACCESS = logging.getLogger("evoserve.access")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, error, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = current_request_id()
        if request_id is not None:
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """The usual line, with fields as `name=value` behind the message."""

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without a traceback."""
        fields: Mapping[str, object] = getattr(record, "fields", {})
        return super().formatMessage(record) + "".join(f" {k}={v}" for k, v in fields.items())


def configure_logging(settings: Settings) -> None:
    """Send the whole process's log to stderr, in the wanted format; replaces what was there."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)


def log_request(record: RequestRecord, method: str, status: int) -> None:
    """One line for a request that is over; probes are told at level debug only."""
    level = logging.DEBUG if record.route in PROBES and status < 400 else logging.INFO
    if not _ACCESS.isEnabledFor(level):
        return
    fields: dict[str, object] = {
        "request_id": record.id,
        "method": method,
        "route": record.route,
        "status": status,
        "duration_ms": round(1000 * record.elapsed_s, 1),
        "key": record.key_name,
    }
    if record.recipe is not None:
        fields["recipe"] = record.recipe
        fields["prompt_tokens"] = record.num_prompt_tokens
        fields["completion_tokens"] = record.num_generated_tokens
    _ACCESS.log(level, "request", extra={"fields": fields})

"""What every route works with, kept on the application."""

from dataclasses import dataclass, field
from typing import Literal

from fastapi import Request

from evoserve.api.drain import Drain
from evoserve.api.keyring import Keyring
from evoserve.api.limits import RateLimits
from evoserve.api.metrics import Metrics
from evoserve.api.registry import Registry
from evoserve.api.tracing import Tracing
from evoserve.config import Settings
from evoserve.engine.protocol import Engine
from evoserve.lifecycle.lifecycle import Lifecycle

Status = Literal["ready", "loading", "draining", "stalled", "failed"]


@dataclass(frozen=True)
class Service:
    """The parts of a running server.

    tracing: None while traces are not configured; drain: told of what is to end with the server.
    """

    settings: Settings
    engine: Engine
    registry: Registry
    metrics: Metrics
    lifecycle: Lifecycle
    keys: Keyring = field(default_factory=Keyring)
    admin_keys: Keyring = field(default_factory=Keyring)
    rates: RateLimits = field(default_factory=RateLimits)
    tracing: Tracing | None = None
    drain: Drain = field(default_factory=Drain)

    def is_draining(self) -> bool:
        """Has the server been told to stop?"""
        return self.drain.has_begun()

    def is_stalled(self) -> bool:
        """Is the engine's thread gone, or has it been in one step for too long?"""
        return self.engine.stats().stalled_s > self.settings.stall_s

    def status(self) -> Status:
        """Does the server want requests? "failed" if none of its recipes can be served."""
        if self.is_draining():
            return "draining"
        if self.is_stalled():
            return "stalled"
        if self.lifecycle.is_starting:
            return "loading"
        has_failed = bool(list(self.lifecycle.recipes)) and not self.lifecycle.names()
        return "failed" if has_failed else "ready"


def service_of(request: Request) -> Service:
    """The service of the application that a request came to."""
    service: Service = request.app.state.service
    return service

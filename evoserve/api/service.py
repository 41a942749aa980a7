"""What every route works with, kept on the application."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from evoserve.api.metrics import Metrics
from evoserve.api.registry import Registry
from evoserve.config import Settings
from evoserve.engine.protocol import Engine


@dataclass(frozen=True)
class Service:
    """The parts of a running server; `is_draining` turns true once it is told to stop."""

    settings: Settings
    engine: Engine
    registry: Registry
    metrics: Metrics
    is_draining: Callable[[], bool]


def service_of(request: Request) -> Service:
    """The service of the application that a request came to."""
    service: Service = request.app.state.service
    return service

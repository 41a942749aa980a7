"""The application: settings, an engine and a registry made into one ASGI callable."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from evoserve import __version__
from evoserve.api.errors import answer_error
from evoserve.api.metrics import Metrics
from evoserve.api.registry import Registry
from evoserve.api.routes import openai, public
from evoserve.api.service import Service
from evoserve.config import Settings
from evoserve.engine.protocol import Engine
from evoserve.errors import EvoServeError


def create_app(
    settings: Settings,
    engine: Engine,
    registry: Registry,
    *,
    is_draining: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The HTTP API over `engine`, which is closed when the application shuts down."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        await engine.close()

    app = FastAPI(
        title="EvoServe",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = Service(settings, engine, registry, Metrics(engine), is_draining)
    app.include_router(openai)
    app.include_router(public)
    for kind in (EvoServeError, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)
    return app

"""The application: settings, an engine and a registry made into one ASGI callable."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from evoserve import __version__
from evoserve.api.aliases import aliases
from evoserve.api.document import build_document
from evoserve.api.drain import Drain
from evoserve.api.errors import answer_error
from evoserve.api.front import Front
from evoserve.api.keyring import Keyring
from evoserve.api.limits import RateLimits
from evoserve.api.logs import PROBES
from evoserve.api.metrics import Metrics
from evoserve.api.recipes import recipes
from evoserve.api.registry import Registry
from evoserve.api.routes import openai, public
from evoserve.api.service import Service
from evoserve.api.tracing import build_tracing
from evoserve.config import Settings
from evoserve.engine.protocol import Engine
from evoserve.errors import EvoServeError
from evoserve.lifecycle.lifecycle import Lifecycle

EXPOSED = (
    "retry-after",
    "x-request-id",
    "x-evoserve-recipe",
    *(
        f"x-ratelimit-{part}-{kind}"
        for kind in ("requests", "tokens")
        for part in ("limit", "remaining", "reset")
    ),
)


def create_app(
    settings: Settings,
    engine: Engine,
    registry: Registry,
    lifecycle: Lifecycle | None = None,
    *,
    drain: Drain | None = None,
) -> FastAPI:
    """The HTTP API over `engine`, which is closed when the application shuts down.

    lifecycle: what manages `registry`; None is one that remembers nothing. drain: told when to
    stop. Raises ConfigError for keys or a trace target that are wrong.
    """
    managed = Lifecycle(settings, engine, registry) if lifecycle is None else lifecycle

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        await managed.close()
        await engine.close()
        if service.tracing is not None:
            service.tracing.close()

    app = FastAPI(
        title="EvoServe",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
    )
    service = _build_service(settings, engine, registry, managed, drain or Drain())
    app.state.service = service
    app.openapi = cache(partial(build_document, app))  # type: ignore[method-assign]
    for router in (openai, recipes, aliases, public):
        app.include_router(router)
    service.metrics.http.expect(_work(app))
    service.metrics.watch(lambda: service.status() == "ready")
    for kind in (EvoServeError, HTTPException):
        app.add_exception_handler(kind, answer_error)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    app.add_middleware(Front, service=service)
    return app


def _work(app: FastAPI) -> Iterator[tuple[str, str]]:
    """(pattern, method) of every route but the probes."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.path not in PROBES:
            yield from ((route.path, method) for method in sorted(route.methods))


def _build_service(
    settings: Settings, engine: Engine, registry: Registry, lifecycle: Lifecycle, drain: Drain
) -> Service:
    rates = RateLimits(settings.requests_per_minute, settings.tokens_per_minute)
    keys = Keyring(settings.api_key, settings.api_key_file)
    admin_keys = Keyring(settings.admin_key, settings.admin_key_file, name="admin")
    keys.keep_apart(admin_keys)
    return Service(
        settings,
        engine,
        registry,
        Metrics(engine, lifecycle, rates),
        lifecycle,
        keys,
        admin_keys,
        rates,
        build_tracing(settings),
        drain,
    )

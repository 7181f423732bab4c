"""The HTTP application of control: its routes and error handlers."""

from __future__ import annotations

from fastapi import FastAPI

from maas.control.api.problems import add_error_handlers
from maas.control.routes import (
    deployments,
    explain,
    files,
    jobs,
    keys,
    logs,
    models,
    openapi,
    status,
    usage,
)
from maas.control.services import Services
from maas.version import __version__


def create_app(services: Services | None) -> FastAPI:
    """The application. With None it can be described, but cannot answer requests."""
    app = FastAPI(
        title="OpenMaaS",
        version=__version__,
        summary="Build, evaluate, publish, deploy, call and explain models.",
        # The gateway serves the documentation pages, and every route here requires a key.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    add_error_handlers(app)
    for noun in (
        models,
        files,
        deployments,
        keys,
        usage,
        jobs,
        logs,
        status,
        explain,
        openapi,
    ):
        # `include_router` would wrap the routes, but `app.routes` must list each GuardedRoute.
        app.router.routes.extend(noun.router.routes)
    return app

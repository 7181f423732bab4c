"""The HTTP application of control: routes, errors and nothing else."""

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
    """The application; None describes it without being able to answer."""
    app = FastAPI(
        title="OpenMaaS",
        version=__version__,
        summary="Build, evaluate, publish, deploy, call and explain models.",
        # The gateway serves its own pages, and every route here needs a key.
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
        # As they are: `include_router` would wrap them, and `app.routes` shall show every route.
        app.router.routes.extend(noun.router.routes)
    return app

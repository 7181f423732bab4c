"""The routes of control, one file per resource. They translate between HTTP and the services."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from maas.control.services import Services


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


UseServices = Annotated[Services, Depends(_services)]

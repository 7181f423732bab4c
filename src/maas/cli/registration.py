"""Adds commands to the Typer application and imports only the modules of those commands.

`maas status` starts in milliseconds because it imports `cli/server/status.py` and no other command.
"""

from __future__ import annotations

from types import ModuleType

import typer


def register(name: str, app: typer.Typer) -> None:
    """Add the command `name`. Raises KeyError for a name that is not in `commands.COMMANDS`."""
    for load in (_server, _models, _deployments, _access):
        module = load(name)
        if module is not None:
            module.register(app)
            return
    raise KeyError(name)


def _server(name: str) -> ModuleType | None:
    match name:
        case "up":
            from maas.cli.server import up

            return up
        case "down":
            from maas.cli.server import down

            return down
        case "status":
            from maas.cli.server import status

            return status
        case "logs":
            from maas.cli.server import logs

            return logs
        case "doctor":
            from maas.cli.server import doctor

            return doctor
        case "version":
            from maas.cli.server import version

            return version
        case _:
            return None


def _models(name: str) -> ModuleType | None:
    match name:
        case "run":
            from maas.cli.models import run

            return run
        case "build":
            from maas.cli.models import build

            return build
        case "evaluate":
            from maas.cli.models import evaluate

            return evaluate
        case "publish":
            from maas.cli.models import publish

            return publish
        case "pull":
            from maas.cli.models import pull

            return pull
        case "optimize":
            from maas.cli.models import optimize

            return optimize
        case "models":
            from maas.cli.models import models

            return models
        case "jobs":
            from maas.cli.models import jobs

            return jobs
        case _:
            return None


def _deployments(name: str) -> ModuleType | None:
    match name:
        case "deploy":
            from maas.cli.deployments import deploy

            return deploy
        case "deployments":
            from maas.cli.deployments import deployments

            return deployments
        case "rollback":
            from maas.cli.deployments import rollback

            return rollback
        case "undeploy":
            from maas.cli.deployments import undeploy

            return undeploy
        case "predict":
            from maas.cli.deployments import predict

            return predict
        case "chat":
            from maas.cli.deployments import chat

            return chat
        case "bench":
            from maas.cli.deployments import bench

            return bench
        case "explain":
            from maas.cli.deployments import explain

            return explain
        case _:
            return None


def _access(name: str) -> ModuleType | None:
    match name:
        case "keys":
            from maas.cli.access import keys

            return keys
        case "usage":
            from maas.cli.access import usage

            return usage
        case _:
            return None

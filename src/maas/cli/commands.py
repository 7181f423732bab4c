"""The list of commands with their summaries, and the exit codes.

Imports nothing heavy, so that `maas --help` answers at once.
"""

from __future__ import annotations

import shutil
import textwrap
from typing import NamedTuple


class Command(NamedTuple):
    group: str
    summary: str


COMMANDS = {
    "up": Command("Server", "Start the server."),
    "down": Command("Server", "Stop the server after it has answered the requests in flight."),
    "status": Command("Server", "Show deployments and replicas: desired state and actual state."),
    "logs": Command("Server", "Show the log of a deployment, a replica, control or gateway."),
    "doctor": Command("Server", "Check this machine and the server, and suggest fixes."),
    "version": Command("Server", "Print the version."),
    "run": Command(
        "Models", "Run a recipe: build, evaluate, publish, optimize, deploy, predict, explain."
    ),
    "build": Command("Models", "Train the model of a recipe."),
    "evaluate": Command("Models", "Measure a built model and check the gates of its recipe."),
    "publish": Command("Models", "Publish a built model or an ONNX file as a new version."),
    "pull": Command("Models", "Publish a model from a hub, a URL, a bucket or a package."),
    "optimize": Command("Models", "Add smaller or faster variants that pass a gate."),
    "models": Command("Models", "List models, or show a version with its evidence."),
    "jobs": Command("Models", "List, show or cancel builds, evaluations and optimizations."),
    "deploy": Command("Deployments", "Deploy a model under a name, or change a deployment."),
    "deployments": Command("Deployments", "List deployments, or show one."),
    "rollback": Command("Deployments", "Restore the previous state of a deployment."),
    "undeploy": Command("Deployments", "Delete a deployment; its model stays published."),
    "predict": Command("Deployments", "Send inputs to a deployment and print its outputs."),
    "chat": Command("Deployments", "Chat with a deployment that generates text."),
    "bench": Command("Deployments", "Measure latency and throughput of a deployment under load."),
    "explain": Command("Deployments", "Explain one prediction of a deployment."),
    "keys": Command("Access", "List, create or revoke API keys."),
    "usage": Command("Access", "Show requests, rows and tokens per key."),
}

SUBCOMMANDS = {
    "models": ("list", "show"),
    "jobs": ("list", "show", "cancel"),
    "deployments": ("list", "show"),
    "keys": ("list", "create", "revoke"),
}

OK, FAILED, USAGE, NOT_FOUND, AUTH, CONFLICT = 0, 1, 2, 3, 4, 5
UNAVAILABLE, CONFIGURATION, INTERRUPTED = 69, 78, 130

_MAX_WIDTH = 96
_OPTIONS = {
    "--home DIR": "Directory that contains all state (MAAS_HOME; default ~/.maas).",
    "--base-url URL": "Server to use (MAAS_BASE_URL; default: the server of the home).",
    "--version": "Print the version.",
    "--help": "Print this help; after a command, the help of that command.",
    "--install-completion": "Install tab completion for this shell: commands, options, and the "
    "names of deployments, models, keys and jobs of the server.",
    "--show-completion": "Print the completion script instead.",
}
_EPILOG = (
    "Most commands accept -o json for machine-readable output. Data goes to stdout, messages go "
    "to stderr.",
    "Exit codes: 0 success, 1 failure, 2 invalid usage or input, 3 not found, 4 key missing or "
    "refused, 5 conflict, 69 server unavailable, 78 invalid configuration, 130 interrupted.",
)


def help_text(width: int | None = None) -> str:
    """The help of `maas` itself, wrapped at `width` columns (default: the terminal's)."""
    width = min(width or shutil.get_terminal_size().columns, _MAX_WIDTH)
    lines = [
        "Usage: maas [--home DIR] [--base-url URL] COMMAND [ARGS]",
        "",
        *textwrap.wrap(
            "Serve models: build, evaluate, optimize, publish, deploy, predict, explain.", width
        ),
    ]
    group = ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            lines += ["", f"{group}:"]
        lines += _entry(name, command.summary, 15, width)
    lines += ["", "Options:"]
    for name, summary in _OPTIONS.items():
        lines += _entry(name, summary, 24, width)
    lines.append("")
    for paragraph in _EPILOG:
        lines += textwrap.wrap(paragraph, width)
    return "\n".join(lines)


def _entry(name: str, summary: str, column: int, width: int) -> list[str]:
    """A name with its summary in a column beside it."""
    return textwrap.wrap(
        summary,
        max(width, column + 20),
        initial_indent=f"  {name}".ljust(column),
        subsequent_indent=" " * column,
    )

"""Which commands there are, in the words of their help, and what they exit with.

Imports nothing, so that `maas --help` answers at once.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    group: str
    summary: str


COMMANDS = {
    "up": Command("Server", "Start the server."),
    "down": Command("Server", "Stop the server after it has answered what it accepted."),
    "status": Command("Server", "Show what shall run, what runs, and why the two differ."),
    "logs": Command("Server", "Show the log of a deployment, a replica, control or gateway."),
    "doctor": Command("Server", "Check this machine and the server, and say what to do."),
    "run": Command(
        "Models", "Run a recipe: build, evaluate, publish, optimize, deploy, call, explain."
    ),
    "build": Command("Models", "Train the model of a recipe."),
    "evaluate": Command("Models", "Measure a built model, and check the recipe's gates."),
    "publish": Command("Models", "Publish a built model or an ONNX file as a new version."),
    "pull": Command("Models", "Publish a model from a hub, an address, a bucket or a package."),
    "optimize": Command("Models", "Make smaller or faster variants that pass a gate."),
    "models": Command("Models", "List models, or show a version with its evidence."),
    "jobs": Command("Models", "List, show or cancel builds, evaluations and optimizations."),
    "deploy": Command("Deployments", "Make a model answer under a name."),
    "rollback": Command("Deployments", "Put back what a deployment was before."),
    "undeploy": Command("Deployments", "Stop a deployment and forget it; its model stays."),
    "predict": Command("Deployments", "Call a deployment."),
    "chat": Command("Deployments", "Talk with a deployment that writes text."),
    "bench": Command("Deployments", "Measure how fast a deployment answers under load."),
    "explain": Command("Deployments", "Ask why a deployment answers as it does."),
    "keys": Command("Callers", "Create, list or revoke the keys of callers."),
    "usage": Command("Callers", "Show what each key used."),
}

OK, FAILED, USAGE, NOT_FOUND, AUTH, CONFLICT = 0, 1, 2, 3, 4, 5
UNAVAILABLE, CONFIGURATION, INTERRUPTED = 69, 78, 130


def help_text() -> str:
    lines = [
        "Usage: maas [--home DIR] [--base-url URL] COMMAND …",
        "",
        "Turn a model into a service: build, evaluate, optimize, publish, deploy, call, explain.",
    ]
    group = ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            lines += ["", f"{group}:"]
        lines.append(f"  {name:<10} {command.summary}")
    return "\n".join(
        [
            *lines,
            "",
            "Options:",
            "  --home DIR      Directory of all state (MAAS_HOME; default ~/.maas).",
            "  --base-url URL  Server to talk to (MAAS_BASE_URL; default: the server of the home).",
            "  --version       Print the version.",
            "  --help          Print this, or after a command the help of that command.",
            "",
            "Most commands take -o json for machines. Data goes to stdout, messages to stderr.",
            "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 key refused, 5 conflict,",
            "69 server unavailable, 78 bad configuration, 130 interrupted.",
        ]
    )

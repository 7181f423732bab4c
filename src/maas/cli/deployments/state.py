"""Shows how a deployment gets ready, and the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from maas.cli.output import Format, emit_json, emit_table, notify
from maas.domain.deployments import Target
from maas.domain.errors import DeadlineExceeded, MaasError
from maas.domain.numbers import format_number

if TYPE_CHECKING:
    from maas.client.answers import DeploymentView
    from maas.client.client import Client

StateCallback: TypeAlias = Callable[["DeploymentView"], None]


def change_and_show(
    client: Client,
    name: str,
    change: Callable[[StateCallback], DeploymentView],
    output: Format,
    extra: Mapping[str, Any] | None = None,
) -> DeploymentView:
    """Run `change` and print the deployment that results; `extra` is added to its JSON."""
    view = change_and_wait(client, name, change)
    if output is Format.JSON:
        emit_json(view.to_dict() | dict(extra or {}))
        return view
    emit_table(
        ("deployment", "model", "targets", "replicas", "state", "address"),
        [
            (
                name,
                view.deployment.model,
                targets_text(view.deployment.targets),
                f"{view.ready}/{view.desired}",
                view.state,
                f"{client.base_url}/predict/{name}",
            )
        ],
    )
    return view


def change_and_wait(
    client: Client, name: str, change: Callable[[StateCallback], DeploymentView]
) -> DeploymentView:
    """Run `change` and print each new state on stderr. If it fails, print the end of the log and
    what to do next, and raise what `change` raised."""
    from maas.client.deployments import DeploymentFailed

    previous = ""

    def show(view: DeploymentView) -> None:
        nonlocal previous
        line = f"{name}: {view.state}, {view.ready} of {view.desired} replicas ready"
        line += f" ({view.reason})" if view.reason else ""
        if line != previous:
            notify(line)
            previous = line

    try:
        return change(show)
    except (DeploymentFailed, DeadlineExceeded):
        _show_log(client, name)
        notify(f"next: `maas logs {name}` for the whole log, `maas status`, `maas rollback {name}`")
        raise


def targets_text(targets: Sequence[Target]) -> str:
    """`2/onnx`, or with shares `1/onnx 90%, 2/onnx 10%`."""
    if len(targets) == 1:
        return f"{targets[0].version}/{targets[0].variant}"
    total = sum(target.weight for target in targets)
    return ", ".join(
        f"{target.version}/{target.variant} {share_text(target.weight, total)}"
        for target in targets
    )


def share_text(weight: int, total: int) -> str:
    """A weight as a percentage of all weights."""
    return f"{format_number(100 * weight / (total or 1))}%"


def _show_log(client: Client, name: str) -> None:
    try:
        text = client.logs(name, lines=20)
    except MaasError as error:
        notify(f"its log cannot be shown: {error.message}")
        return
    if text.strip():
        notify(f"last lines of its log:\n{text.rstrip()}")

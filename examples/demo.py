"""The whole lifecycle in one program: a classifier of handwritten digits, from data to a service.

    make demo                    # serves until Ctrl-C
    DEMO_ONESHOT=1 make demo     # exits by itself

It writes to `.demo/` only (or `--home DIR`), and can be run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

import maas
from maas.lifecycle.data.dataset import load_dataset, split
from maas.lifecycle.explain import Explanation
from maas.lifecycle.pictures import diverging, heat_map_png
from maas.lifecycle.recipe import Recipe

CHECKOUT = Path(__file__).resolve().parent.parent
RECIPE = CHECKOUT / "examples" / "digits" / "recipe.toml"
FIRST_PORT, LAST_PORT = 8000, 8099
READY_SECONDS = 60.0
USAGE_SECONDS = 5.0
SHADES = " ░▒▓█"
out = Console(highlight=False, soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--home", type=Path, default=CHECKOUT / ".demo", help="directory of all state"
    )
    home = parser.parse_args().home.absolute()
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        with running_server(home) as server:
            call, token = demonstrate(server)
            if os.environ.get("DEMO_ONESHOT"):
                check_curl(call, token, server)
                return 0
            out.print("\nServing until Ctrl-C.", style="bold")
            with contextlib.suppress(KeyboardInterrupt):
                code = server.process.wait()
                raise failure(f"the server exited with code {code}; see {home / 'up.log'}")
    except KeyboardInterrupt:
        return 130
    except maas.MaasError as error:
        raise failure(error.message) from None
    return 0


# -- the server -----------------------------------------------------------------------------


@dataclass
class Server:
    home: Path
    url: str
    process: subprocess.Popen[bytes]

    def client(self, token: str = "") -> maas.Client:
        return maas.Client(self.url, token or (self.home / "admin.key").read_text().strip())


@contextlib.contextmanager
def running_server(home: Path) -> Iterator[Server]:
    """`maas up` in `home`, in a process of its own that is stopped at the end."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A server that a killed demo left behind.
    subprocess.run([*maas_command(home), "down"], env=environment(home), capture_output=True)
    port = free_port()
    # With the port in the home's own settings, `MAAS_HOME=.demo maas …` finds the server.
    (home / "maas.toml").write_text(f"[server]\nport = {port}\n")
    step(f"Start OpenMaaS in {short(home)}")
    began = time.monotonic()
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [*maas_command(home), "up"],
            env=environment(home),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is handled here and passed on as SIGTERM
        )
    server = Server(home, f"http://127.0.0.1:{port}", process)
    try:
        wait_until_ready(server)
        note(f"ready at {server.url} after {time.monotonic() - began:.1f} s")
        yield server
    finally:
        out.print()
        note("stopping after the accepted requests have been answered")
        process.terminate()
        if process.wait(60) != 0:
            raise failure(f"the server did not stop cleanly; see {home / 'up.log'}")
        note("stopped")


def maas_command(home: Path) -> list[str]:
    return [sys.executable, "-m", "maas.cli.main", "--home", str(home)]


def environment(home: Path) -> dict[str, str]:
    """The environment without the settings of another OpenMaaS of this user."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    return others | {"MAAS_HOME": str(home)}


def free_port() -> int:
    for port in range(FIRST_PORT, LAST_PORT + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port != FIRST_PORT:
            note(f"port {FIRST_PORT} is taken by another program; this demo uses {port}")
        return port
    raise failure(f"no port from {FIRST_PORT} to {LAST_PORT} is free")


def wait_until_ready(server: Server) -> None:
    ends = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(maas.MaasError, OSError):
            server.client().status()
            return
        if server.process.poll() is not None or time.monotonic() > ends:
            raise failure(
                (server.home / "up.log").read_text().strip() or "the server did not start"
            )
        time.sleep(0.05)


# -- the lifecycle --------------------------------------------------------------------------


def demonstrate(server: Server) -> tuple[str, str]:
    """The lifecycle, step by step. Returns the curl command and its expected output."""
    step(f"maas run {short(RECIPE)}", "build, evaluate, publish, deploy")
    done = run_recipe(server.home)
    report = server.home / "report.html"
    shutil.copyfile(Path(done["job"]["result"]["publication"]) / "report.html", report)

    step("A key for callers")
    admin = server.client()
    for key in admin.keys.list():
        if key.name == "demo" and key.revoked_at is None:
            admin.keys.revoke(key.id)  # of an earlier run
    created = admin.keys.create("demo", ["call"])
    note(f"{created.token} has the scope call only")

    step("Call and explain: an image that was not used for training")
    image, truth, background = test_image()
    caller = server.client(created.token)
    answer = caller.predict("digits", x=image)
    options = {"background": {"x": background}, "samples": 4096}
    with out.status("explaining") if out.is_terminal else contextlib.nullcontext():
        raw = caller.explain("digits", x=image, options=options, timeout=120)
    explanation = Explanation.from_dict(raw)
    picture = server.home / "explanation.png"
    picture.write_bytes(heat_map_png(explanation, np.array(image)))
    show(np.array(image)[0], explanation)
    sure = min(max(answer["probabilities"]), 0.999)
    verdict = "right" if answer["label"] == truth else f"wrong, it is a {truth}"
    out.print(f"\n  It is a [bold]{answer['label']}[/bold], {sure:.1%} sure: {verdict}.")
    off = abs(explanation.additivity_error)
    note(f"the explanation used {explanation.rows:,} model outputs; additivity error {off:.0e}")

    step("Usage")
    show_usage(admin, created.key.id)

    line = curl_line(server.url, created.token, image)
    step("Try it yourself")
    out.print(f"  address      {server.url}")
    out.print(f"  API          {server.url}/docs")
    out.print(f"  key          {created.token}")
    out.print(f"  report       {report.as_uri()}")
    out.print(f"  heat map     {picture}")
    out.print(f"  admin        MAAS_HOME={short(server.home)} {short(MAAS)} status")
    out.print("\n  Paste this into another terminal:\n", style="bold")
    print(line, flush=True)  # as it is: no wrapping, no markup
    return line, json.dumps(answer)


MAAS = Path(sys.executable).with_name("maas")


def run_recipe(home: Path) -> dict[str, Any]:
    """The results of `maas run`, whose progress is shown in this terminal."""
    command = [*maas_command(home), "run", str(RECIPE), "-o", "json"]
    process = subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE)
    try:
        results, _ = process.communicate()
    except KeyboardInterrupt:
        process.wait()  # Ctrl-C reaches it as well; it stops its job first
        raise
    if process.returncode:
        raise failure(f"maas run exited with code {process.returncode}")
    done: dict[str, Any] = json.loads(results)
    return done


def test_image() -> tuple[list[Any], int, list[Any]]:
    """An image [1, 8, 8] of the recipe's test set, its label, and images of the training set."""
    recipe = Recipe.load(RECIPE)
    parts = split(load_dataset(recipe.build.data), recipe.build.split)
    number = int(np.argmax(parts.test.y == 3))
    ints = parts.test.x.astype(int)
    return ints[number].tolist(), int(parts.test.y[number]), parts.train.x[:50].tolist()


def show(image: np.ndarray[Any, Any], explanation: Explanation) -> None:
    """Prints the image, and next to it the pixels that speak for and against the answer."""
    heat = explanation.heat()
    shares = heat / (np.abs(heat).max() or 1.0)
    colors = diverging(shares)
    name = explanation.label or str(explanation.target)
    out.print(f"\n  {'the image':<20}pixels for and against {name}")
    for y, row in enumerate(image):
        line = Text("  ")
        for value in row:
            gray = round(255 - value * 15)
            line.append(*pixel(f"rgb({gray},{gray},{gray})", SHADES[int(value / 16 * 4 + 0.5)]))
        line.append("    ")
        for x in range(heat.shape[1]):
            sign = " " if abs(shares[y, x]) < 0.08 else ("+" if shares[y, x] > 0 else "-")
            red, green, blue = colors[y][x][:3]
            line.append(*pixel(f"rgb({red},{green},{blue})", sign))
        out.print(line)


def pixel(color: str, plain: str) -> tuple[str, str]:
    """Two characters, about a square: in color, or as a sign if there are no colors."""
    return ("  ", f"on {color}") if out.color_system else (plain * 2, "")


def show_usage(admin: maas.Client, key_id: str) -> None:
    """Prints the usage of the key, which the server collects every second."""
    ends = time.monotonic() + USAGE_SECONDS
    while True:
        usage = admin.usage(key=key_id)
        if {u["operation"] for u in usage} >= {"predict", "explain"} or time.monotonic() > ends:
            break
        time.sleep(0.1)
    for u in usage:
        counts = f"requests {u['requests']}, rows {u['rows']}, errors {u['errors']}"
        note(f"{u['day']}  demo  {u['deployment']}/{u['operation']:<8} {counts}")


def curl_line(url: str, token: str, image: list[Any]) -> str:
    body = json.dumps({"x": image}, separators=(",", ":"))
    return (
        f"curl {url}/predict/digits \\\n"
        f"  -H 'Authorization: Bearer {token}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d '{body}'"
    )


def check_curl(line: str, expected: str, server: Server) -> None:
    """Runs the command as printed, without a shell."""
    if shutil.which("curl") is None:
        note("curl is not installed, so the command was not run")
        return
    words = shlex.split(line.replace("\\\n", " "))
    ran = subprocess.run([*words, "-sS"], capture_output=True, text=True, timeout=30)
    if ran.returncode or json.loads(ran.stdout) != json.loads(expected):
        raise failure(f"the curl command printed something else: {ran.stdout}{ran.stderr}")
    out.print()
    note("the command above was run and printed the same answer")


# -- output ---------------------------------------------------------------------------------


def step(title: str, more: str = "") -> None:
    out.print()
    out.print(Text.assemble(("● ", "cyan"), (title, "bold"), (f"  {more}" if more else "", "dim")))


def note(text: str) -> None:
    out.print(Text(f"  {text}", style="dim" if out.color_system else ""))


def short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def failure(why: str) -> SystemExit:
    sys.stdout.flush()
    return SystemExit(f"demo: {why}")


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

"""The console in a real browser, against a server whose answers are hostile."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import uvloop

from maas.domain.keys import Key, Scope, hash_token
from maas.domain.numbers import format_number
from maas.gateway.console import console_routes
from maas.gateway.http.auth import HostCheck, KeyRing, require
from maas.gateway.http.request import Request
from maas.gateway.http.routes import Route, RouteAccess, RouteTable
from maas.gateway.http.server import HttpServer
from tests.support.clients import browser
from tests.support.clients.browser import Page
from tests.support.servers.maas import wait_until

ROOT = Path(__file__).parents[3]
TOKEN = "maas_k1_secret"
CALLER = "maas_k2_secret"
EVIL = (
    '<img src=x onerror="alert(1)"><script>alert(2)</script>'
    "'\"><svg onload=alert(3)>javascript:alert(4)"
)
DIGEST = "ab" * 32
REPORT = (
    "<!doctype html><style>body{color:rgb(1,2,3)}</style><h1>the report</h1>"
    "<script>parent.alert(5);parent.sessionStorage.clear()</script><img src=x onerror=alert(6)>"
    "<form action=/livez><button>go</button></form>"
)
NAMES = ("index.html", "docs.html", "report.html")


def spec(name: str, shape: list[int]) -> dict[str, Any]:
    """A tensor spec with hostile text in every text field."""
    return {
        "name": name, "datatype": EVIL, "shape": shape, "units": EVIL, "description": EVIL,
        "labels": [EVIL] * 3,
    }  # fmt: skip


DEPLOYMENT = {
    "name": EVIL, "model": EVIL, "targets": [{"version": 1, "variant": EVIL, "weight": 100}],
    "scaling": {}, "default": True, "revision": 1, "ready": 0, "desired": 1, "state": EVIL,
    "reason": EVIL, "replicas": [],
}  # fmt: skip
VERSION = {
    "model": EVIL, "number": 1, "digest": DIGEST, "created_at": 1.0, "created_by": EVIL,
    "manifest": {
        "description": EVIL,
        "signature": {"inputs": [spec(EVIL, [3])], "outputs": [spec(EVIL, [3])],
                      "example": {EVIL: [1, 2, 3]}},
        "variants": [{"name": EVIL, "runtime": EVIL,
                      "files": [{"name": EVIL, "sha256": DIGEST, "size": 1}]}],
    },
    "evidence": [
        {"kind": "metrics", "values": {"metrics": {EVIL: 0.5}, "intervals": {EVIL: [0, 1]}},
         "how": {"rows": 3, "confidence": 0.95, "method": EVIL, "data_digest": EVIL}},
        {"kind": "report", "values": {}, "how": {}, "file": {"sha256": DIGEST}},
    ],
}  # fmt: skip
EXPLANATION = {
    "output": EVIL, "label": EVIL, "prediction": 1.5, "baseline": 0.5, "background": EVIL,
    "background_rows": 5, "method": EVIL, "rows": 10, "calls": 2, "seed": 0,
    "additivity_error": 0.0, "image": None,
    "attributions": [{"name": EVIL, "value": 1.0, "units": EVIL, "shapley": 0.7,
                      "standard_error": 0.1, "input": EVIL, "region": []}],
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "/api/v1/status": {"version": EVIL, "uptime_s": 5, "deployments": [DEPLOYMENT]},
    "/api/v1/models": {"models": [{"name": EVIL, "task": EVIL, "versions": 1, "latest": 1,
                                   "updated_at": 1.0}]},
    "/api/v1/usage": {"usage": [{"key_id": EVIL, "key_name": EVIL, "deployment": EVIL,
                                 "operation": EVIL, "day": EVIL, "requests": 7, "rows": 7,
                                 "errors": 0, "compute_us": 5}]},
    "/v1/models": {"data": [{"id": "one-to-call"}]},
    "/api/v1/keys": {"keys": [{"name": EVIL, "scopes": [EVIL], "created_at": 1.0,
                               "revoked_at": None}]},
}  # fmt: skip


@dataclass
class Site:
    url: str
    requests: list[str]


def answer(request: Request) -> None:
    """Answer like control, without checking anything."""
    path = request.target.decode().partition("?")[0]
    if path == "/openapi.json":
        request.respond(200, (ROOT / "api/openapi.json").read_bytes())
    elif path.startswith("/api/v1/files/"):
        request.respond(200, REPORT.encode(), b"application/octet-stream")
    elif "/versions/" in path:
        request.respond(200, json.dumps(VERSION).encode())
    elif path.startswith("/api/v1/models/"):
        request.respond(200, json.dumps({"name": EVIL, "versions": [{"number": 1}]}).encode())
    elif path.startswith("/explain/"):
        request.respond(200, json.dumps(EXPLANATION).encode())
    elif path.startswith("/predict/"):
        request.respond(200, json.dumps({EVIL: [0.1, 0.2, 0.7], "z": EVIL}).encode())
    else:
        request.respond(200, json.dumps(ANSWERS[path]).encode())


async def serve(ready: threading.Event, box: list[Site], stop: threading.Event) -> None:
    keys = KeyRing()
    keys.replace([Key("k1", "k", (Scope.ADMIN,), hash_token(TOKEN)),
                  Key("k2", "c", (Scope.CALL,), hash_token(CALLER))])  # fmt: skip
    requests: list[str] = []

    def record(request: Request) -> None:
        requests.append(request.target.decode())
        if request.target.startswith(b"/api/") and request.key is not None:
            require(request.key, Scope.READ)
        answer(request)

    routes = [
        Route("GET", "/api/{*}", RouteAccess.ANY_KEY, record),
        Route("GET", "/openapi.json", RouteAccess.ANY_KEY, record),
        Route("GET", "/v1/models", Scope.CALL, record),
        Route("POST", "/predict/{deployment}", Scope.CALL, record, 1 << 20),
        Route("POST", "/explain/{deployment}", Scope.CALL, record, 1 << 20),
        *console_routes(),
    ]
    server = HttpServer(RouteTable(routes), keys, HostCheck(()))
    listening = socket.create_server(("127.0.0.1", 0))
    await server.listen(listening, None)
    box.append(Site(f"http://127.0.0.1:{listening.getsockname()[1]}", requests))
    ready.set()
    while not stop.is_set():
        await asyncio.sleep(0.02)
    await server.drain(0.0)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    ready, stop = threading.Event(), threading.Event()
    box: list[Site] = []
    thread = threading.Thread(target=lambda: uvloop.run(serve(ready, box, stop)))
    thread.start()
    assert ready.wait(5)
    yield box[0]
    stop.set()
    thread.join()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = browser.executable()
    if program is None:
        pytest.skip("Chromium is not installed")
    with browser.page(program) as opened:
        yield opened


def enter(page: Page, site: Site, path: str = "/", token: str = TOKEN) -> None:
    """Open `path` with the key in the tab, as after login."""
    page.open(site.url + "/")
    page.wait(f"location.origin === {json.dumps(site.url)} && document.readyState === 'complete'")
    page.js(f"sessionStorage.setItem('maas-key', {json.dumps(token)})")
    page.open(site.url + path)


def test_the_console_asks_for_the_key_and_keeps_it_in_the_tab(page: Page, site: Site) -> None:
    page.open(site.url + "/")
    page.wait("document.querySelector('#key')")
    assert site.requests == []
    refused = "document.querySelector('.bad').innerText.includes('unknown')"
    for typed, then in (("maas_no", refused), (TOKEN, "document.querySelector('article.card')")):
        page.js(f"document.querySelector('#key').value = {json.dumps(typed)};"
                "document.querySelector('form').requestSubmit(); 1")  # fmt: skip
        page.wait(then)
    assert page.js("sessionStorage.getItem('maas-key')") == TOKEN
    assert page.js("localStorage.length + document.cookie.length") == 0
    page.js("document.querySelector('#sign-out').click(); 1")
    page.wait("document.querySelector('#key') && !sessionStorage.length")


def test_hostile_text_stays_text(page: Page, site: Site) -> None:
    page.forget()
    enter(page, site)
    page.wait("document.querySelectorAll('section').length === 4")
    page.js("document.querySelectorAll('details').forEach((d) => { d.open = true }); 1")
    page.wait("document.querySelector('textarea').value && document.querySelector('.tiles')")
    for button, selector in (("Predict", ".output"), ("Explain", ".answer .bars")):
        page.js(f"[...document.querySelectorAll('button')].find((b) => b.innerText === '{button}')"
                ".click(); 1")  # fmt: skip
        page.wait(f"document.querySelector('{selector}')")
    text = page.js("document.body.innerText")
    assert text.count("<img src=x onerror=") >= 25
    elements = (
        "img:not(.brand img), script:not([src]), main :is(script, iframe, [onload], [onerror])"
    )
    assert page.js(f"document.querySelectorAll('{elements}').length") == 0
    links = page.js("[...document.querySelectorAll('main a')].map((a) => a.getAttribute('href'))")
    assert links == [f"/assets/report.html#{DIGEST}"]
    assert page.dialogs == []
    assert page.errors == []
    assert all(url.startswith(site.url) for url in page.requests)


def test_a_key_that_may_only_call_sees_a_notice_and_the_documentation(
    page: Page, site: Site
) -> None:
    page.forget()
    enter(page, site, token=CALLER)
    page.wait("document.querySelectorAll('main section').length === 1")
    text = page.js("document.querySelector('main').innerText")
    assert "call deployments and see nothing else" in text
    assert "one-to-call" in text
    assert "scope" not in text
    page.open(site.url + "/docs")
    page.wait("document.querySelector('details.operation')")


def test_a_report_is_shown_with_its_style_and_without_scripts(page: Page, site: Site) -> None:
    page.forget()
    enter(page, site, f"/assets/report.html#{DIGEST}")
    page.wait("!document.querySelector('iframe').hidden")
    assert page.js("document.querySelector('iframe').srcdoc.includes('the report')")
    assert page.js("document.querySelector('iframe').contentDocument") is None  # another origin
    wait_until(lambda: page.js_in_frame("document.querySelector('h1')?.innerText") == "the report")
    color = "getComputedStyle(document.body).color"  # the text may appear before its style
    wait_until(lambda: page.js_in_frame(color) == "rgb(1, 2, 3)")
    page.js_in_frame("document.querySelector('button').click()")
    wait_until(lambda: any("script" in error for error in page.errors))
    assert page.dialogs == []
    assert page.js("sessionStorage.getItem('maas-key')") == TOKEN


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node on this machine")
def test_numbers_are_written_as_in_reports(tmp_path: Path) -> None:
    module = tmp_path / "dom.mjs"
    module.write_text((ROOT / "src/maas/console/dom.js").read_text())
    numbers = [0, 3, -7, 223766, 223766.4, 0.9612, 12.3456, 1234.6, -0.5, 1e-3, 2.1e-7, 3e15]
    script = (
        f"import({json.dumps(module.as_uri())}).then((m) => "
        f"console.log(JSON.stringify({json.dumps(numbers)}.map(m.formatNumber))))"
    )
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [format_number(number) for number in numbers]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node on this machine")
def test_the_scripts_are_valid_modules(tmp_path: Path) -> None:
    for source in (ROOT / "src/maas/console").glob("*.js"):
        module = tmp_path / f"{source.stem}.mjs"
        module.write_text(source.read_text())
        done = subprocess.run(["node", "--check", module], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()


def test_the_documentation_shows_every_operation(page: Page, site: Site) -> None:
    page.forget()
    enter(page, site, "/docs")
    document = json.loads((ROOT / "api/openapi.json").read_text())
    count = sum(len(methods) for methods in document["paths"].values())
    page.wait(f"document.querySelectorAll('details.operation').length === {count}")
    for name in document["components"]["schemas"]:
        assert page.js(f"!!document.getElementById('schema-{name}')"), name
    assert page.errors == []


def test_the_files_load_nothing_from_elsewhere_and_parse_no_text() -> None:
    folder = resources.files("maas.console")
    routes = {route.pattern for route in console_routes()}
    assert {"/", "/docs", "/assets/style.css", "/assets/main.js"} <= routes
    for entry in folder.iterdir():
        if not entry.name.endswith((".js", ".html", ".css", ".svg")):
            continue
        text = entry.read_text()
        outside = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert outside == set(), entry.name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                     "new Function", "localStorage", " style="):  # fmt: skip
            assert word not in text, (entry.name, word)
        for asset in re.findall(r"[\"'](/assets/[a-z.]+)[\"']", text):
            assert asset in routes, (entry.name, asset)

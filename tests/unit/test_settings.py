"""Settings: precedence, errors, and the environment of child processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from maas.settings import GOMP_SPINS, ConfigurationError, child_environment, load


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "maas.toml"
    file.write_text("[server]\nport = 1111\nworkers = 2\ndrain_s = 3\n")
    environment = {"MAAS_HOME": str(tmp_path), "MAAS_SERVER__PORT": "2222",
                   "MAAS_SERVER__WORKERS": "4"}  # fmt: skip
    server = load({"server.port": 3333}, environment, file).server
    assert (server.port, server.workers, server.drain_s, server.host) == (3333, 4, 3.0, "127.0.0.1")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MAAS_SERVER__PROT": "1"}, "did you mean 'port'"),
        ({"MAAS_SERVR__PORT": "1"}, "did you mean 'server'"),
        ({"MAAS_PORT": "1"}, "use MAAS_SECTION__KEY"),
        ({"MAAS_SERVER__PORT": "many"}, "MAAS_SERVER__PORT: server.port"),
        ({"MAAS_SERVER__PORT": "99999"}, "<= 65535"),
        ({"MAAS_SERVER__WORKERS": "0"}, ">= 1"),
    ],
)
def test_an_invalid_setting_is_named(
    tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"home": str(tmp_path)}, environment)
    assert message in str(caught.value)


def test_a_client_uses_the_running_server_of_its_home(tmp_path: Path) -> None:
    started = load({"home": str(tmp_path), "server.port": 4444}, {})
    later = load({"home": str(tmp_path)}, {})
    assert later.base_url == "http://127.0.0.1:8000"
    started.run_dir.mkdir()
    (started.run_dir / "settings.json").write_text(started.to_json())
    assert later.base_url == "http://127.0.0.1:8000"  # no server is running
    (started.run_dir / "supervisor.pid").write_text("1")
    assert later.base_url == "http://127.0.0.1:4444"
    chosen = load({"home": str(tmp_path), "client.base_url": "http://elsewhere"}, {})
    assert chosen.base_url == "http://elsewhere"
    assert chosen.api_key == ""  # this home's key is for this home's server


def test_settings_survive_a_round_trip_as_json(tmp_path: Path) -> None:
    settings = load({"home": str(tmp_path), "server.port": 4444}, {})
    assert type(settings).from_json(settings.to_json()) == settings


def test_openmp_threads_sleep_soon_unless_the_environment_sets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert child_environment()["GOMP_SPINCOUNT"] == GOMP_SPINS
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in child_environment()
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert child_environment()["GOMP_SPINCOUNT"] == "7"

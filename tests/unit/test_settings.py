from __future__ import annotations

from pathlib import Path

import pytest

from maas.settings import GOMP_SPINS, ConfigurationError, child_environment, load


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "maas.toml"
    file.write_text("[server]\nport = 1111\nworkers = 2\ndrain_s = 3\n")
    environment = {"MAAS_HOME": str(tmp_path), "MAAS_SERVER__PORT": "2222",
                   "MAAS_SERVER__WORKERS": "4"}  # fmt: skip
    found = load({"server.port": 3333}, environment, file).server
    assert (found.port, found.workers, found.drain_s, found.host) == (3333, 4, 3.0, "127.0.0.1")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MAAS_SERVER__PROT": "1"}, "did you mean 'port'"),
        ({"MAAS_SERVR__PORT": "1"}, "did you mean 'server'"),
        ({"MAAS_PORT": "1"}, "use MAAS_SECTION__KEY"),
        ({"MAAS_SERVER__PORT": "many"}, "MAAS_SERVER__PORT: server.port"),
        ({"MAAS_SERVER__PORT": "99999"}, "<= 65535"),
        ({"MAAS_SERVER__WORKERS": "0"}, ">= 1"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"home": str(tmp_path)}, environment)
    assert words in str(caught.value)


def test_a_client_talks_to_the_server_that_runs_for_its_home(tmp_path: Path) -> None:
    started = load({"home": str(tmp_path), "server.port": 4444}, {})
    later = load({"home": str(tmp_path)}, {})
    assert later.base_url == "http://127.0.0.1:8000"
    started.run_dir.mkdir()
    (started.run_dir / "settings.json").write_text(started.to_json())
    assert later.base_url == "http://127.0.0.1:8000"  # it does not run
    (started.run_dir / "supervisor.pid").write_text("1")
    assert later.base_url == "http://127.0.0.1:4444"
    chosen = load({"home": str(tmp_path), "client.base_url": "http://elsewhere"}, {})
    assert chosen.base_url == "http://elsewhere"
    assert chosen.api_key == ""  # this home's key is for this home's server


def test_settings_travel_as_json(tmp_path: Path) -> None:
    settings = load({"home": str(tmp_path), "server.port": 4444}, {})
    assert type(settings).from_json(settings.to_json()) == settings


def test_threads_of_openmp_sleep_soon_unless_the_operator_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert child_environment()["GOMP_SPINCOUNT"] == GOMP_SPINS
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in child_environment()
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert child_environment()["GOMP_SPINCOUNT"] == "7"

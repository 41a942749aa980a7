"""compose.yaml holds together: with the image, the settings, and the files it mounts."""

from pathlib import Path

import pytest
from deploy_lab import DEPLOY, ROOT, image_environment, read_compose, read_yaml, seconds

from evoserve.api.server import FLUSH_S
from evoserve.config import Settings, load_settings

COMPOSE = read_compose()
SERVICES = COMPOSE["services"]
SERVER = SERVICES["server"]


def test_every_service_is_hardened_and_stays_on_this_machine() -> None:
    assert set(SERVICES) == {"server", "prometheus", "grafana"}
    for service in SERVICES.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["ports"][0].startswith("127.0.0.1:")


def test_sources_cannot_be_written_and_recipes_can() -> None:
    modes = {volume.split(":")[1]: volume.split(":")[2:] for volume in SERVER["volumes"]}
    assert modes == {"/srv/models": ["ro"], "/srv/recipes": ["rw"], "/srv/state": []}
    for service in ("prometheus", "grafana"):
        bound = [volume for volume in SERVICES[service]["volumes"] if volume.startswith(".")]
        assert all(volume.endswith(":ro") for volume in bound)


def test_secrets_come_as_files_and_never_by_the_environment() -> None:
    assert SERVER["secrets"] == list(COMPOSE["secrets"]) == ["settings", "api_keys"]
    assert all("file" in each for each in COMPOSE["secrets"].values())
    assert not {"EVOSERVE_API_KEY", "EVOSERVE_ADMIN_KEY"} & set(SERVER["environment"])
    assert SERVER["command"][-2:] == ["--config", "/run/secrets/settings"]
    assert SERVER["environment"]["EVOSERVE_API_KEY_FILE"] == "/run/secrets/api_keys"
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/deploy/secrets/" in ignored
    assert COMPOSE["secrets"]["api_keys"]["file"] == "./secrets/api_keys"


def test_stopping_leaves_time_to_drain() -> None:
    settings = Settings()
    assert seconds(SERVER["stop_grace_period"]) > settings.drain_s + FLUSH_S


def test_it_sets_what_the_settings_take(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**image_environment(), **SERVER["environment"]}
    known = {f"EVOSERVE_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in given if name.startswith("EVOSERVE_")} <= known
    for name, value in given.items():
        if name.startswith("EVOSERVE_") and value is not None:
            monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.source_roots == (Path("/srv/models"),)
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)
    assert settings.state.parent == Path("/srv/state")


def test_what_it_mounts_is_there() -> None:
    for service in SERVICES.values():
        for volume in service["volumes"]:
            if volume.startswith("."):
                assert (DEPLOY / volume.split(":")[0]).exists(), volume


def test_prometheus_scrapes_the_server_s_port_and_loads_the_alerts() -> None:
    config = read_yaml("prometheus.yml")
    assert config["rule_files"] == ["alerts.yml"]
    (job,) = config["scrape_configs"]
    port = image_environment()["EVOSERVE_PORT"]
    assert job["static_configs"] == [{"targets": [f"server:{port}"]}]
    assert "server" in SERVICES


def test_grafana_finds_its_dashboards_and_prometheus() -> None:
    folder = "grafana/provisioning"
    (provider,) = read_yaml(f"{folder}/dashboards/files.yaml")["providers"]
    mounted = SERVICES["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounted
    (source,) = read_yaml(f"{folder}/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert SERVICES["prometheus"]["ports"][0].endswith(":9090")

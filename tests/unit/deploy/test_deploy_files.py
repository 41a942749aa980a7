"""The files of deploy/ hold together: with each other, with the settings, with a running server."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from evoserve import __version__
from evoserve.config import Settings, load_settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
TEXTS = [file for file in sorted(DEPLOY.rglob("*")) if file.is_file()]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/evoserve.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
PANEL_QUERIES = [t["expr"] for panel in DASHBOARD["panels"] for t in panel["targets"]]
ALERT_QUERIES = [rule["expr"] for rule in ALERTS]
OF_PROMETHEUS = {"up"}
SECRET = r"(?i)(password|secret|token|api_key)\w*[ \t]*[=:][ \t]*['\"]?[\w$]"


def instructions() -> list[tuple[str, str]]:
    """(keyword, arguments) of each line of the Dockerfile, continued lines joined."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    starts = [i for i, (keyword, _) in enumerate(found) if keyword == "FROM"]
    return found[starts[-1] :]


def only(keyword: str) -> str:
    (found,) = [value for name, value in last_stage() if name == keyword]
    return found


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(only("ENV")))


def health_command() -> list[str]:
    return json.loads(only("HEALTHCHECK").split("CMD", 1)[1])


def metric_names(query: str) -> set[str]:
    """The series a PromQL expression reads: what is left without labels, ranges and functions."""
    bare = re.sub(r"\{.*?\}|\[.*?\]|\bby \(.*?\)", " ", query)
    return set(re.findall(r"(?<![\w:])[A-Za-z_:][\w:]*(?![\w:]|\s*\()", bare)) - {"by", "le"}


@dataclass(frozen=True)
class Container:
    """The image's command, run here: its port, its environment and what /metrics said."""

    process: subprocess.Popen[str]
    port: int
    environment: dict[str, str]

    def get(self, path: str, body: dict[str, object] | None = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """Entry point, command and environment of image and compose, /srv and /tmp being elsewhere."""
    srv, tmp = tmp_path_factory.mktemp("srv"), tmp_path_factory.mktemp("tmp")
    (srv / "models").symlink_to(ROOT / "models")
    (srv / "recipes").mkdir()
    shutil.copy(ROOT / "models/recipes/mini-dfs.json", srv / "recipes")
    given = {**image_environment(), **COMPOSE["services"]["server"]["environment"]}
    moved = {
        name: value.replace("/srv", str(srv)).replace("/tmp", str(tmp), value.startswith("/tmp"))
        for name, value in given.items()
        if value is not None
    }
    bin_folder = Path(sys.executable).parent
    here = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    bound = {"EVOSERVE_HOST": "127.0.0.1", "EVOSERVE_PORT": "0", "EVOSERVE_THREADS": "1"}
    environment = {**moved, **here, **bound}
    command = [*json.loads(only("ENTRYPOINT")), *json.loads(only("CMD"))]
    command = [part.replace("/srv", str(srv)) for part in command]
    command[0] = str(bin_folder / command[0])
    process = subprocess.Popen(
        command,
        cwd=srv,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    heard = []
    for line in process.stdout:
        heard.append(line)
        if bound_to := re.search(r"Serving on http://127\.0\.0\.1:(\d+)", line):
            break
    else:
        pytest.fail("".join(heard))
    port = int(bound_to.group(1))
    yield Container(process, port, {**environment, "EVOSERVE_PORT": str(port)})
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_running_server_exports_every_metric_that_is_asked_for(container: Container) -> None:
    body = {"model": "mini-dfs", "prompt": "1 + 1 =", "max_tokens": 3, "temperature": 0}
    container.get("/v1/completions", body)
    lines = container.get("/metrics").splitlines()
    exported = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    asked = set().union(*map(metric_names, PANEL_QUERIES + ALERT_QUERIES))
    assert len(asked) >= 10
    assert asked - OF_PROMETHEUS <= exported
    (variable,) = DASHBOARD["templating"]["list"]
    metric, label = re.fullmatch(r"label_values\((\S+), (\w+)\)", variable["definition"]).groups()
    assert any(line.startswith(f"{metric}{{{label}=") for line in lines)


def test_the_health_check_tells_a_server_from_none(container: Container) -> None:
    command = [sys.executable, *health_command()[1:]]
    environment = container.environment
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    nobody = {**environment, "EVOSERVE_PORT": "1"}
    gone = subprocess.run(command, env=nobody, check=False, capture_output=True)
    assert gone.returncode == 1


def test_the_server_writes_nothing_beside_its_tmpfs(container: Container) -> None:
    srv = Path(container.environment["EVOSERVE_SOURCE_ROOTS"].strip('[]"')).parent
    assert sorted(path.name for path in srv.rglob("*")) == ["mini-dfs.json", "models", "recipes"]


def test_queries_are_taken_apart() -> None:
    query = 'sum by (le, a) (rate(x:y_total{a="b"}[5m])) / max by (a) (z) > 0.5'
    assert metric_names(query) == {"x:y_total", "z"}


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_files_parse_and_name_real_settings(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if file.suffix in (".yaml", ".yml"):
        assert isinstance(yaml.safe_load(text), dict)
    known = {f"EVOSERVE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bEVOSERVE_[A-Z_]+", text)) <= known


def test_what_is_copied_exists_and_is_let_into_the_build() -> None:
    let_in = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copies = [value for name, value in instructions() if name == "COPY" and "--from" not in value]
    sources = {source for value in copies for source in value.split()[:-1]}
    assert sources == let_in
    for source in sources:
        assert (ROOT / source).exists(), source


def test_the_image_runs_as_a_number_in_exec_form() -> None:
    user, group = only("USER").split(":")
    assert int(user) > 0
    assert int(group) == 0  # what OpenShift gives to a user of its choice
    assert only("WORKDIR") == "/srv"
    (entry,) = json.loads(only("ENTRYPOINT"))
    assert (Path(sys.executable).parent / entry).exists()
    assert json.loads(only("CMD"))[0] == "serve"
    assert health_command()[0] == "python"


def test_the_image_is_offline_and_writes_below_tmp() -> None:
    environment = image_environment()
    assert environment["HF_HUB_OFFLINE"] == "1"
    for name in ("HOME", "NUMBA_CACHE_DIR"):
        assert environment[name].startswith("/tmp")
    assert environment["USER"]


def test_the_image_carries_its_version_and_no_secret() -> None:
    assert ("ARG", f"VERSION={__version__}") in last_stage()
    for file in TEXTS:
        text = file.read_text(encoding="utf-8")
        assert not re.search(
            r"(?i)(password|secret|token|api_key)\w*[ \t]*[=:][ \t]*['\"]?[\w$]", text
        )


def test_stopping_leaves_time_to_drain() -> None:
    grace = COMPOSE["services"]["server"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings().drain_s


def test_every_service_is_hardened_and_stays_on_this_machine() -> None:
    assert set(COMPOSE["services"]) == {"server", "prometheus", "grafana"}
    for service in COMPOSE["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["ports"][0].startswith(("127.0.0.1:", "${BIND:-127.0.0.1}:"))
        mounts = [volume.split(":") for volume in service["volumes"] if volume.startswith(".")]
        assert all(mount[-1] == "ro" for mount in mounts)
    sources, recipes = COMPOSE["services"]["server"]["volumes"]
    assert sources.endswith(":/srv/models:ro")
    assert recipes.endswith(":/srv/recipes:${RECIPES_MODE:-ro}")


def test_compose_sets_what_the_settings_take(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**image_environment(), **COMPOSE["services"]["server"]["environment"]}
    for name, value in given.items():
        if name.startswith("EVOSERVE_") and value is not None:
            monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.source_roots == (Path("/srv/models"),)
    assert (settings.host, settings.port) == ("0.0.0.0", 8000)


def test_what_is_mounted_is_there_and_found() -> None:
    for service in ("prometheus", "grafana"):
        for volume in COMPOSE["services"][service]["volumes"]:
            if volume.startswith("."):
                assert (DEPLOY / volume.split(":")[0]).exists(), volume
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert scrape["rule_files"] == ["alerts.yml"]
    (job,) = scrape["scrape_configs"]
    port = image_environment()["EVOSERVE_PORT"]
    assert job["static_configs"] == [{"targets": [f"server:{port}"]}]


def test_the_dashboard_asks_the_provisioned_source() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    wanted = {"type": source["type"], "uid": source["uid"]}
    assert [panel["datasource"] for panel in DASHBOARD["panels"]] == [wanted] * 10
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == 10
    (provider,) = yaml.safe_load((provisioning / "dashboards/files.yaml").read_text())["providers"]
    mounts = COMPOSE["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts

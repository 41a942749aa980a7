"""The files of deploy/ as data, and the tools that check them."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent


def need_tool(name: str) -> str:
    """The path of a program beside this Python or on PATH; skips the test without it."""
    found = shutil.which(name, path=str(BIN)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; .ci/run and pyproject.toml say where from")
    return found


def read_yaml(name: str) -> dict:
    """A YAML file of deploy/."""
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def read_compose() -> dict:
    """compose.yaml, its ${NAME:-default} replaced by the defaults."""
    return _with_defaults(read_yaml("compose.yaml"))


def read_dashboard() -> dict:
    """Grafana's dashboard."""
    return json.loads((DEPLOY / "grafana/dashboards/evoserve.json").read_text(encoding="utf-8"))


def panel_queries() -> list[tuple[str, str]]:
    """(panel: reference, PromQL) of every target of the dashboard."""
    panels = read_dashboard()["panels"]
    return [(f"{p['title']}: {t['refId']}", t["expr"]) for p in panels for t in p["targets"]]


def alert_rules() -> list[dict]:
    """The rules of alerts.yml."""
    return [rule for group in read_yaml("alerts.yml")["groups"] for rule in group["rules"]]


def instructions() -> list[tuple[str, str]]:
    """(keyword, arguments) of each line of the Dockerfile, continued lines joined."""
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    """The instructions of the stage that becomes the image."""
    found = instructions()
    starts = [i for i, (keyword, _) in enumerate(found) if keyword == "FROM"]
    return found[starts[-1] :]


def only(keyword: str) -> str:
    """The arguments of the one instruction of this name in the last stage."""
    (found,) = [value for name, value in last_stage() if name == keyword]
    return found


def image_environment() -> dict[str, str]:
    """ENV of the image, PATH as written."""
    return dict(pair.split("=", 1) for pair in shlex.split(only("ENV")))


def image_command() -> list[str]:
    """ENTRYPOINT and CMD."""
    return [*json.loads(only("ENTRYPOINT")), *json.loads(only("CMD"))]


def health_command() -> list[str]:
    """What HEALTHCHECK runs."""
    return json.loads(only("HEALTHCHECK").split("CMD", 1)[1])


def seconds(text: str) -> int:
    """A duration of compose or a Dockerfile, such as 45s or 10m."""
    number, unit = re.fullmatch(r"(\d+)([smh])", text).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def _with_defaults(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_defaults(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_defaults(each) for each in value]
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) if isinstance(value, str) else value

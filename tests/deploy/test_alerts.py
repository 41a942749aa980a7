"""Each alert fires on made-up series that call for it and stays silent on those that do not."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from deploy_lab import DEPLOY, ROOT, alert_rules, need_tool

from evoserve.api.logs import PROBES

CASES = yaml.safe_load(Path(__file__).with_name("alert_cases.yml").read_text(encoding="utf-8"))
ALERTS = [rule["alert"] for rule in alert_rules()]


def alert_of(name: str) -> str:
    """The alert that a case is about."""
    return name.partition(",")[0]


def evaluate(tmp_path: Path, name: str, *, fires: bool) -> str:
    """What promtool says of one case, empty if it is as expected."""
    case = CASES[name]
    expected = [{"exp_labels": case["labels"]}] if fires else []
    rule = {
        "interval": "15s",
        "input_series": [
            {"series": series, "values": values}
            for series, values in case["fires" if fires else "silent"].items()
        ],
        "alert_rule_test": [
            {"alertname": alert_of(name), "eval_time": case["at"], "exp_alerts": expected}
        ],
    }
    for each in expected:
        each["exp_annotations"] = {"summary": case["summary"]}
    test = {"rule_files": [str(DEPLOY / "alerts.yml")], "evaluation_interval": "15s"}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({**test, "tests": [rule]}))
    said = subprocess.run(
        [need_tool("promtool"), "test", "rules", str(tmp_path / "test.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if said.returncode == 0 else said.stdout + said.stderr


def test_every_alert_has_a_case() -> None:
    assert list(dict.fromkeys(map(alert_of, CASES))) == ALERTS


@pytest.mark.parametrize("name", CASES)
def test_it_fires_when_it_should(tmp_path: Path, name: str) -> None:
    assert evaluate(tmp_path, name, fires=True) == ""


@pytest.mark.parametrize("name", CASES)
def test_it_is_silent_otherwise(tmp_path: Path, name: str) -> None:
    assert evaluate(tmp_path, name, fires=False) == ""


def test_the_routes_whose_failures_do_not_page_are_the_probes() -> None:
    (expression,) = [rule["expr"] for rule in alert_rules() if rule["alert"] == "AnswersFail"]
    left_out = re.search(r'route!~"/\((.*?)\)"', expression)[1]
    assert {f"/{name}" for name in left_out.split("|")} == PROBES


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_says_what_to_do(alert: str) -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(f"| `{alert}` |")]
    assert len(rows) == 1
    assert all(len(cell.strip()) > 3 for cell in rows[0].strip("|").split("|"))

"""Each alert fires on made-up series that call for it and stays silent on those that do not."""

import subprocess
from pathlib import Path

import pytest
import yaml
from deploy_lab import DEPLOY, ROOT, alert_rules, need_tool

CASES = yaml.safe_load(Path(__file__).with_name("alert_cases.yml").read_text(encoding="utf-8"))
ALERTS = [rule["alert"] for rule in alert_rules()]


def evaluate(tmp_path: Path, alert: str, case: dict, *, fires: bool) -> str:
    """What promtool says of one case, empty if it is as expected."""
    expected = [{"exp_labels": case["labels"]}] if fires else []
    rule = {
        "interval": "15s",
        "input_series": [
            {"series": name, "values": values}
            for name, values in case["fires" if fires else "silent"].items()
        ],
        "alert_rule_test": [{"alertname": alert, "eval_time": case["at"], "exp_alerts": expected}],
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
    assert list(CASES) == ALERTS


@pytest.mark.parametrize("alert", ALERTS)
def test_it_fires_when_it_should(tmp_path: Path, alert: str) -> None:
    assert evaluate(tmp_path, alert, CASES[alert], fires=True) == ""


@pytest.mark.parametrize("alert", ALERTS)
def test_it_is_silent_otherwise(tmp_path: Path, alert: str) -> None:
    assert evaluate(tmp_path, alert, CASES[alert], fires=False) == ""


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_says_what_to_do(alert: str) -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(f"| `{alert}` |")]
    assert len(rows) == 1
    assert all(len(cell.strip()) > 3 for cell in rows[0].strip("|").split("|"))

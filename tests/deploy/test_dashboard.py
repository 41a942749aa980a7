"""Grafana's dashboard is whole, and each of its queries draws something in a real Prometheus."""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from deploy_lab import ROOT, alert_rules, panel_queries, read_dashboard, read_yaml
from prometheus_lab import Prometheus, observing

from tests.attack_lab import Target, spawn_server

DASHBOARD = read_dashboard()
PANELS = DASHBOARD["panels"]
UNITS = {"short", "percentunit", "s", "bytes", "reqps"}
# Grafana takes four scrapes for the interval.
VARIABLES = {"$instance": "127.*", "$model": ".*", "$__rate_interval": "1m"}
ENDED = "vllm:request_success_total"
PROMPT = "1 + 1 = 2. " * 8
SENT = 6


@dataclass(frozen=True)
class Observed:
    """A server after a little of everything, and the Prometheus that has seen it."""

    server: Target
    prometheus: Prometheus


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Traffic, a build and a move of an alias, once before and once after a scrape."""
    folder = tmp_path_factory.mktemp("observed")
    (folder / "prometheus").mkdir()
    with (
        spawn_server(folder) as server,
        observing(server.port, folder / "prometheus") as prometheus,
    ):
        for number in (SENT // 2, SENT):
            use(server)
            prometheus.wait(lambda n=number: prometheus.total(ENDED) >= n, f"{number} {ENDED}")
        yield Observed(server, prometheus)


def use(server: Target) -> None:
    """Half of the sequences, then a recipe, an alias and a pin."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(SENT // 2):
            body = {"model": "mini-dfs", "prompt": PROMPT, "max_tokens": 4, "ignore_eos": True}
            assert client.post("/v1/completions", json=body).status_code == 200
        manifest = (ROOT / "models/recipes/mini-ties.json").read_bytes()
        media = {"Content-Type": "application/json"}
        assert client.post("/v1/recipes", content=manifest, headers=media).is_success
        assert client.put("/v1/aliases/prod", json={"recipe": "mini-ties"}).is_success
        assert client.post("/v1/recipes/mini-dfs/pin").is_success


def substituted(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def metric_names(query: str) -> set[str]:
    """The series a PromQL expression reads: what is left without labels, ranges and functions."""
    bare = re.sub(r"\{.*?\}|\[.*?\]|\bby \(.*?\)", " ", query)
    return set(re.findall(r"(?<![\w:])[A-Za-z_:][\w:]*(?![\w:]|\s*\()", bare)) - {"by", "le"}


@pytest.mark.parametrize(("panel", "expression"), panel_queries(), ids=lambda text: text[:60])
def test_every_panel_draws(observed: Observed, panel: str, expression: str) -> None:
    found = observed.prometheus.query(substituted(expression))
    assert found, panel
    assert any(map(math.isfinite, found.values())), found


def test_the_variables_list_the_servers_and_their_recipes(observed: Observed) -> None:
    found = {}
    for variable in DASHBOARD["templating"]["list"]:
        query = variable["definition"]
        assert variable["query"]["query"] == query
        assert variable["multi"] is variable["includeAll"] is True
        series, label = re.fullmatch(r"label_values\((\S+), (\w+)\)", query).groups()
        match = {"match[]": substituted(series)}
        found[variable["name"]] = observed.prometheus.get(f"label/{label}/values", **match)
    recipes = {value.split("@")[0] for value in found.pop("model")}
    assert recipes == {"mini-dfs", "mini-ties"}
    assert found == {"instance": [f"127.0.0.1:{observed.server.port}"]}


def test_what_is_drawn_is_what_was_done(observed: Observed) -> None:
    total = observed.prometheus.total
    assert total(ENDED) == SENT
    assert total("vllm:generation_tokens_total") == SENT * 4
    assert total('evoserve:builds_total{outcome="ready"}') == 2
    assert total('evoserve:alias_changes_total{action="set"}') == 2
    assert total("vllm:prefix_cache_hits_total") > 0


def test_what_alerts_count_begins_at_zero(observed: Observed) -> None:
    errors = observed.prometheus.query(f'{ENDED}{{finished_reason="error"}}')
    assert list(errors.values()) == [0, 0]
    failed = observed.prometheus.query('evoserve:builds_total{outcome="failed"}')
    assert list(failed.values()) == [0]
    answers = observed.prometheus.query('evoserve:http_requests_total{status=~"5.."}')
    assert len(answers) > 20
    assert set(answers.values()) == {0}


def test_no_alert_fires_at_a_server_that_is_well(observed: Observed) -> None:
    for rule in alert_rules():
        assert observed.prometheus.query(rule["expr"]) == {}, rule["alert"]
    groups = observed.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["name"] for rule in rules] == [rule["alert"] for rule in alert_rules()]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert observed.prometheus.get("alerts")["alerts"] == []


def test_the_server_exports_every_metric_that_is_asked_for(observed: Observed) -> None:
    exported = {re.split(r"[{ ]", name)[0] for name in observed.server.metrics()}
    expressions = [expression for _, expression in panel_queries()]
    expressions += [rule["expr"] for rule in alert_rules()]
    asked = set().union(*map(metric_names, expressions))
    assert len(asked) >= 15
    assert asked - {"up"} <= exported


def test_the_metric_endpoint_names_a_format_that_prometheus_3_takes(observed: Observed) -> None:
    answer = httpx.get(f"{observed.server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")


def test_every_series_is_chosen_by_server_and_by_recipe_where_it_has_one(
    observed: Observed,
) -> None:
    by_recipe = {
        re.split(r"[{ ]", name)[0] for name in observed.server.metrics() if "model_name=" in name
    }
    for panel, expression in panel_queries():
        chosen = re.findall(r"([a-z]+:?\w+)\{(.*?)\}", expression)
        assert {name for name, _ in chosen} == metric_names(expression), panel
        for name, labels in chosen:
            assert 'instance=~"$instance"' in labels, panel
            assert ('model_name=~"$model"' in labels) == (name in by_recipe), panel


def test_legends_tell_apart_what_is_not_summed() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            summed = re.search(r"\bby \((.*?)\)", target["expr"])
            labels = set(re.findall(r"\w+", summed[1])) if summed else {"instance"}
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert labels - {"le"} <= shown, panel["title"]
            assert shown <= labels | ({"model_name"} if summed is None else set()), panel["title"]


def test_queries_are_taken_apart() -> None:
    query = 'sum by (le, a) (rate(x:y_total{a="b"}[5m])) / max by (a) (z) > 0.5'
    assert metric_names(query) == {"x:y_total", "z"}


def test_panels_have_their_own_id_title_and_unit() -> None:
    for name in ("id", "title"):
        assert len({panel[name] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        unit = panel["fieldConfig"]["defaults"]["unit"]
        assert unit in UNITS or unit.startswith("suffix:"), panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_do_not_overlap_and_lie_on_the_grid() -> None:
    cells = list(itertools.chain.from_iterable(map(covered, PANELS)))
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def covered(panel: dict) -> list[tuple[int, int]]:
    place = panel["gridPos"]
    columns = range(place["x"], place["x"] + place["w"])
    rows = range(place["y"], place["y"] + place["h"])
    return list(itertools.product(columns, rows))


def test_everything_asks_the_provisioned_source() -> None:
    file = Path("grafana/provisioning/datasources/prometheus.yaml")
    (source,) = read_yaml(str(file))["datasources"]
    wanted = {"type": source["type"], "uid": source["uid"]}
    targets = [target for panel in PANELS for target in panel["targets"]]
    for asking in (*PANELS, *targets, *DASHBOARD["templating"]["list"]):
        assert asking["datasource"] == wanted

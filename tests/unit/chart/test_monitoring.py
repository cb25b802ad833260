"""Alerts and dashboard ask for metrics and labels that the operator really has, in PromQL that parses.

Shows no Prometheus and no Grafana: that an alert fires is not tested.
"""

import json
import re
from collections.abc import Iterator

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from opd_api.names import LABEL_JOB, LABEL_ROLE
from opd_operator import metrics
from opd_operator.kube.numbers import numbers_of
from opd_operator.objects import JobKey

STATUS = {
    "phase": "Training",
    "progress": {"step": 120, "totalSteps": 300, "lastReportTime": "2026-01-02T03:04:05Z"},
    "distillation": {"reverseKL": 0.182, "trend": "Spike"},
    "reward": {"mean": 0.62},
    "teachers": [{"name": "a", "failedScores": 2}, {"name": "b", "failedScores": 3}],
}
SCRAPE_LABELS = {"namespace", "service", "pod"}
"""What a ServiceMonitor adds."""


@pytest.fixture(scope="module")
def exposed() -> Iterator[dict[str, dict[str, float]]]:
    """Labels of every metric with a job that trains, as Prometheus parses them, and its value."""
    metrics.jobs.source = [numbers_of(JobKey("team-a", "live"), STATUS)]
    metrics.writes.labels("apply", "RayJob").inc(0)
    samples = [
        sample
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    metrics.jobs.source = ()
    yield {sample.name: {"value": sample.value, **sample.labels} for sample in samples}


@pytest.fixture(scope="module")
def alerts(chart) -> list[dict]:
    groups = yaml.safe_load((chart / "files" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def dashboard(chart) -> dict:
    return json.loads((chart / "files" / "dashboard.json").read_text())


def test_a_job_that_trains_is_told_in_numbers(exposed):
    values = {name: metric["value"] for name, metric in exposed.items() if metric.get("opdjob") == "live"}
    assert values == {
        "opd_job_training": 1,
        "opd_job_step": 120,
        "opd_job_total_steps": 300,
        "opd_job_reverse_kl": 0.182,
        "opd_job_reward": 0.62,
        "opd_job_kl_spike": 1,
        "opd_job_failed_scores": 5,
        "opd_job_last_report_timestamp_seconds": 1767323045,
    }


def test_every_expression_asks_for_what_is_exposed(exposed, alerts, dashboard):
    of_panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    for expression in [alert["expr"] for alert in alerts] + of_panels:
        parsed = promql.parse(expression.replace("$__rate_interval", "5m"))
        asked = list(selectors(parsed))
        assert asked, expression
        for name, labels in asked:
            assert name in exposed, expression
            assert labels <= {*exposed[name], *SCRAPE_LABELS}, expression


def selectors(node) -> Iterator[tuple[str, set[str]]]:
    """Metric and matched labels of every vector in an expression."""
    match node:
        case promql.VectorSelector():
            yield node.name, {matcher.name for matcher in node.matchers.matchers}
        case promql.MatrixSelector():
            yield from selectors(node.vector_selector)
        case promql.BinaryExpr():
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from selectors(node.expr)
        case promql.Call():
            for argument in node.args:
                yield from selectors(argument)


def test_every_alert_says_what_is_wrong_and_what_to_look_at(exposed, alerts):
    names = [alert["alert"] for alert in alerts]
    assert {"OPDJobStale", "OPDJobKLSpike", "OPDJobScoresFailing", "OPDOperatorDown", "OPDOperatorFailing"} <= set(
        names
    )
    assert len(set(names)) == len(names)
    for alert in alerts:
        said = alert["annotations"]
        assert said["summary"].endswith(".") and said["description"]
        assert alert["labels"]["severity"] in ("warning", "critical")
        used = set(re.findall(r"\$labels\.(\w+)", said["summary"] + said["description"]))
        name, _ = next(selectors(promql.parse(alert["expr"])))
        assert used <= {*exposed[name], *SCRAPE_LABELS}, alert["alert"]
    text = json.dumps(alerts)
    assert LABEL_JOB in text and LABEL_ROLE in text


def test_the_dashboard_shows_every_metric_of_jobs_and_operator(exposed, dashboard):
    shown = json.dumps(dashboard)
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    assert [name for name in sorted(families) if name not in shown] == []


def test_panels_have_a_place_of_their_own(dashboard):
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])

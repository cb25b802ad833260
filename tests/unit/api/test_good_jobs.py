"""The jobs of good_jobs.yaml are let through by `opd` and by the CRD: rules may not refuse too much."""

from pathlib import Path

import pytest

from opd_api.kubectl_yaml import parse_document
from opd_api.load import job_from_document

TABLE = parse_document((Path(__file__).parent / "good_jobs.yaml").read_text(), "good_jobs.yaml")
GOOD_JOBS = [pytest.param(changes, id=str(sentence)) for sentence, changes in TABLE.items()]


@pytest.mark.parametrize("changes", GOOD_JOBS)
def test_good_job_is_let_through_everywhere_with_the_same_defaults(make_document, api_server, changes):
    job = job_from_document(make_document(changes))
    stored, by_schema, by_cel = api_server.admit(make_document(changes))
    assert (by_schema, by_cel) == (set(), set())
    assert stored["spec"] == job.model_dump(mode="json", exclude_none=True)["spec"]

"""The jobs of good_jobs.yaml are let through by `opd` and by the CRD: rules may not refuse too much."""

import pytest
from job_documents import table

from opd_api.load import job_from_document

GOOD_JOBS = [pytest.param(changes, id=sentence) for sentence, changes in table("good_jobs.yaml").items()]


@pytest.mark.parametrize("changes", GOOD_JOBS)
def test_good_job_is_let_through_everywhere_with_the_same_defaults(make_document, api_server, changes):
    job = job_from_document(make_document(changes))
    stored, by_schema, by_cel = api_server.admit(make_document(changes))
    assert (by_schema, by_cel) == (set(), set())
    assert stored["spec"] == job.model_dump(mode="json", exclude_none=True)["spec"]

"""The jobs of bad_jobs.yaml are refused with path and remedy, by `opd` and by what an API server reads from the CRD."""

import pytest
from job_documents import table

from opd_api.errors import InvalidJob
from opd_api.load import job_from_document
from opd_api.rules import STATIC_RULES

TABLE = table("bad_jobs.yaml")
BAD_JOBS = [pytest.param(*case, id=sentence) for sentence, case in TABLE.items()]


@pytest.mark.parametrize(("changes", "want_path", "want_remedy"), BAD_JOBS)
def test_bad_job_is_refused_with_path_and_remedy(make_document, changes, want_path, want_remedy):
    with pytest.raises(InvalidJob) as refusal:
        job_from_document(make_document(changes))
    found = [str(problem) for problem in refusal.value.problems if problem.path == want_path]
    assert found, f"refused, but not at {want_path}:\n{refusal.value}"
    assert any(want_remedy in text for text in found), found


@pytest.mark.parametrize(("changes", "want_path", "want_remedy"), BAD_JOBS)
def test_schema_and_cel_of_the_crd_refuse_the_same_paths(make_document, api_server, changes, want_path, want_remedy):
    """Does not prove that a real server compiles the rules within its cost budget."""
    with pytest.raises(InvalidJob) as refusal:
        job_from_document(make_document(changes))
    ours = {problem.path for problem in refusal.value.problems}
    _, by_schema, by_cel = api_server.admit(make_document(changes))
    assert want_path in by_schema | by_cel
    if by_schema:  # what a server asks of CEL then depends on what is broken; `opd` tells all at once
        assert by_schema <= ours
    else:
        assert by_cel == ours


def test_the_table_breaks_every_static_rule(make_document):
    """A rule that no document breaks could say anything."""
    broken = set()
    for changes, _, _ in TABLE.values():
        with pytest.raises(InvalidJob) as refusal:
            job_from_document(make_document(changes))
        broken |= {(problem.path.replace("[0]", "[]"), problem.hint) for problem in refusal.value.problems}
    paths = {rule: ".".join(filter(None, (rule.node, rule.field))) for rule in STATIC_RULES}
    assert [f"{path}: {rule.message}" for rule, path in paths.items() if (path, rule.hint) not in broken] == []

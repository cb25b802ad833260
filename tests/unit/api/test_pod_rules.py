"""What a cluster needs and one machine does not: folders that several pods can reach."""

import pytest

from opd_api.load import job_from_document
from opd_api.rules import check_pods

CASES = [
    pytest.param({}, {}, [], id="one trainer pod shares nothing"),
    pytest.param({"trainers": {"gpusPerReplica": 8}}, {}, [], id="many ranks in one pod share its disk"),
    pytest.param({"trainers": {"replicas": 2}}, {}, ["student.trainers"], id="two trainer pods without a claim"),
    pytest.param({}, {"weightSync": "Disk"}, ["weightSync: Disk"], id="weights through a folder without a claim"),
    pytest.param(
        {"trainers": {"replicas": 2}}, {"weightSync": "Disk"}, ["student.trainers", "weightSync: Disk"], id="both"
    ),
]


@pytest.mark.parametrize(("student", "rollout", "want"), CASES)
@pytest.mark.parametrize("claim", ["", "checkpoints"])
def test_what_pods_share_needs_a_claim(student, rollout, want, claim):
    job = job_from_document(
        {
            "apiVersion": "opd.dev/v1alpha1",
            "kind": "OPDJob",
            "metadata": {"name": "tiny"},
            "spec": {
                "student": {"model": "file:///m/student"} | student,
                "rollout": rollout,
                "teachers": [{"mode": "SGLang", "model": "file:///m/teacher"}],
                "data": {"prompts": [{"uri": "file:///m/prompts.jsonl"}]},
                "checkpoint": {"claimName": claim},
                "steps": 3,
            },
        }
    )
    problems = check_pods(job)
    assert [problem.path for problem in problems] == ["spec.checkpoint.claimName"] * (0 if claim else len(want))
    for problem, words in zip(problems, want, strict=False):
        assert words in problem.message and "ReadWriteMany" in problem.hint

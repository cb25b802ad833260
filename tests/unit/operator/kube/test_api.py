"""What an answer of the API server becomes."""

import json

import pytest

from opd_operator.kube.api import DEEPEST, AdmissionUnavailable, ApiError, ApiUnavailable, _check, loads, shallow

WEBHOOK = 'Internal error occurred: failed calling webhook "v.example.com": connection refused'
NEW_KIND = 'jobs.batch "a" is forbidden: cannot set blockOwnerDeletion in this case because cannot find RESTMapping'


@pytest.mark.parametrize(
    ("status", "message", "want", "want_text"),
    [
        pytest.param(403, "exceeded quota", ApiError, "403: exceeded quota", id="a refusal"),
        pytest.param(
            500, "failed to create typed patch object: x", ApiError, "422: ", id="one that is called an error"
        ),
        pytest.param(503, "not now", ApiUnavailable, "503: not now", id="a server in trouble"),
        pytest.param(429, "slow down", ApiUnavailable, "429: slow down", id="a server that is busy"),
        pytest.param(500, WEBHOOK, AdmissionUnavailable, WEBHOOK, id="a webhook that does not answer"),
        pytest.param(403, NEW_KIND, AdmissionUnavailable, NEW_KIND, id="a kind that admission does not know yet"),
    ],
)
def test_an_answer_that_is_no(status: int, message: str, want: type[Exception], want_text: str) -> None:
    with pytest.raises(want) as caught:
        _check(status, json.dumps({"message": message}).encode())
    assert type(caught.value) is want and want_text in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("read tcp 10.0.0.1:41000->10.0.0.2:443", "read tcp 10.0.0.1:41001->10.0.0.2:443", id="a port"),
        pytest.param(
            "x509: current time 2026-01-01T00:00:01Z is after 2025-01-01T00:00:00Z",
            "x509: current time 2026-01-01T00:00:02Z is after 2025-01-01T00:00:00Z",
            id="the time",
        ),
    ],
)
def test_the_same_trouble_of_a_webhook_is_no_news(first: str, second: str) -> None:
    said = []
    for words in (first, second):
        with pytest.raises(AdmissionUnavailable) as caught:
            _check(500, json.dumps({"message": f"{WEBHOOK}: {words}"}).encode())
        said.append(caught.value.message)
    assert said[0] == said[1]


def test_a_webhook_in_trouble_is_tried_again_like_all_trouble() -> None:
    with pytest.raises(ApiUnavailable) as caught:
        _check(500, json.dumps({"message": WEBHOOK}).encode())
    assert isinstance(caught.value, AdmissionUnavailable) and caught.value.message == WEBHOOK


def nested(depth: int) -> bytes:
    return b'{"kind": "x", "spec": ' + depth * b'{"a": [' + b'"]}"' + depth * b"]}" + b', "status": {"b": "}{\\""}}'


def test_a_document_deeper_than_python_reads_is_cut_and_read() -> None:
    """The API server takes 10,000 levels."""
    document = loads(nested(4_900))
    assert (document["kind"], document["status"]) == ("x", {"b": '}{"'})
    levels, inner = 1, document["spec"]
    while not isinstance(inner, str):
        levels, inner = levels + 1, inner["a"] if isinstance(inner, dict) else inner[0]
    assert (levels, inner) == (DEEPEST, "nested too deep")


@pytest.mark.parametrize("depth", [0, 1, DEEPEST // 2 - 1])
def test_a_document_that_is_not_too_deep_stays_as_it_is(depth: int) -> None:
    assert shallow(nested(depth)) == nested(depth)

"""What a pod can read, write and fetch: claims, caches, credentials, and who may talk to it."""

from typing import Any

import pytest
from child_jobs import JobCase, cases, make_settings, pod_templates

from opd_operator.objects import Manifest

CASES = cases()
ROLES = ("models", "head", "trainer", "engine", "teacher")


@pytest.fixture(scope="module")
def everything() -> dict[str, Manifest]:
    """Model cache, checkpoint claim, hub models and data sets."""
    return pod_templates(CASES["everything"].children())


@pytest.fixture(scope="module")
def endpoint() -> dict[str, Manifest]:
    """Hub models and data sets, no claim at all."""
    return pod_templates(CASES["endpoint"].children())


@pytest.fixture(scope="module")
def arithmetic() -> dict[str, Manifest]:
    return pod_templates(CASES["arithmetic"].children())


def claims(pod: Manifest) -> dict[str, str]:
    """Claim -> "rw" or "ro"."""
    sources = {each["name"]: each.get("persistentVolumeClaim", {}).get("claimName") for each in pod["spec"]["volumes"]}
    mounts = pod["spec"]["containers"][0]["volumeMounts"]
    return {sources[each["name"]]: "ro" if each.get("readOnly") else "rw" for each in mounts if sources[each["name"]]}


def env(pod: Manifest) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}


def secrets(pod: Manifest) -> list[str]:
    return [each["secretRef"]["name"] for each in pod["spec"]["containers"][0].get("envFrom", [])]


@pytest.mark.parametrize(
    ("role", "want"),
    [
        ("models", {"models": "rw", "starts": "ro", "prompts": "ro", "teachers": "ro"}),
        ("head", {"models": "rw", "starts": "ro", "prompts": "ro", "checkpoints": "rw"}),
        ("trainer", {"models": "ro", "starts": "ro", "checkpoints": "rw"}),
        ("engine", {"models": "ro", "checkpoints": "rw"}),
        ("teacher", {"models": "ro", "teachers": "ro"}),
    ],
)
def test_a_pod_mounts_the_claims_it_reads_and_writes_no_other(
    everything: dict[str, Manifest], role: str, want: dict[str, str]
) -> None:
    """The head looks its data set of the hub up in the cache, which takes locks there."""
    assert claims(everything[role]) == want


def test_with_a_model_cache_only_those_who_fetch_are_online(everything: dict[str, Manifest]) -> None:
    online = {role for role in ROLES if "HF_HUB_OFFLINE" not in env(everything[role])}
    assert online == {"models", "head"}
    assert {role for role in ROLES if secrets(everything[role])} == online
    assert {env(everything[role])["OPD_CACHE"] for role in ROLES} == {"/opd/volumes/models/.opd-cache"}


def test_without_a_model_cache_every_pod_fetches_for_itself(endpoint: dict[str, Manifest]) -> None:
    for pod in endpoint.values():
        assert "HF_HUB_OFFLINE" not in env(pod)
        assert secrets(pod) == ["hub"]
        assert env(pod)["OPD_CACHE"] == "/opd/cache"
        assert claims(pod) == {}


def test_a_job_on_claims_alone_never_asks_the_hub(arithmetic: dict[str, Manifest]) -> None:
    assert {env(pod)["HF_HUB_OFFLINE"] for pod in arithmetic.values()} == {"1"}
    assert not any(secrets(pod) for pod in arithmetic.values())


def test_the_models_job_fetches_weights_only_into_a_claim(
    everything: dict[str, Manifest], endpoint: dict[str, Manifest]
) -> None:
    assert "--no-weights" not in everything["models"]["spec"]["containers"][0]["command"]
    assert "--no-weights" in endpoint["models"]["spec"]["containers"][0]["command"]


def test_a_run_has_a_folder_of_its_own_in_the_checkpoint_claim(
    everything: dict[str, Manifest], endpoint: dict[str, Manifest]
) -> None:
    for role in ("head", "trainer", "engine"):
        assert env(everything[role])["OPD_RUN_DIR"] == "/opd/volumes/checkpoints/everything-6f1c2b3a"
        assert env(endpoint[role])["OPD_RUN_DIR"] == "/opd/run"


@pytest.mark.parametrize(
    ("name", "want"),
    [
        pytest.param("arithmetic", "arithmetic-teacher", id="a deployed teacher has a key of ours"),
        pytest.param("everything", "teacher-key", id="or the user's"),
        pytest.param("endpoint", "teacher-key", id="an endpoint has the user's"),
        pytest.param("megatron", "", id="a teacher in the trainers has none"),
    ],
)
def test_the_driver_and_the_teacher_share_the_key(name: str, want: str) -> None:
    pods = pod_templates(CASES[name].children())
    found = {
        role: each["valueFrom"]["secretKeyRef"]["name"]
        for role, pod in pods.items()
        for each in pod["spec"]["containers"][0]["env"]
        if each["name"] == "OPD_TEACHER_API_KEY"
    }
    assert found == {role: want for role in pods if want and role in ("head", "teacher")}


def test_pods_without_gpus_see_none_of_their_nodes(everything: dict[str, Manifest]) -> None:
    void = {role for role in ROLES if env(everything[role]).get("NVIDIA_VISIBLE_DEVICES") == "void"}
    assert void == {"models", "head"}


def test_an_attempt_is_known_to_ray_pods_and_changes_no_other(everything: dict[str, Manifest]) -> None:
    assert {role for role in ROLES if "OPD_ATTEMPT" in env(everything[role])} == {"head", "trainer", "engine"}
    case = CASES["everything"]
    later = pod_templates(JobCase(job=case.job, models=case.models, settings=case.settings, attempt=2).children())
    assert {role for role in ROLES if later[role] != everything[role]} == {"head", "trainer", "engine"}


def test_the_account_may_get_and_patch_its_mailbox_and_nothing_else() -> None:
    [role] = [each for each in CASES["arithmetic"].children() if each["kind"] == "Role"]
    assert role["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["arithmetic-mailbox"],
            "verbs": ["get", "patch"],
        }
    ]


def allowed(policy: Manifest) -> set[tuple[str, int | str]]:
    """(who, port) of every ingress rule."""
    found: set[tuple[str, int | str]] = set()
    for rule in policy["spec"]["ingress"]:
        ports = [each["port"] for each in rule.get("ports", [])] or ["all"]
        for peer in rule["from"]:
            [(kind, selector)] = peer.items()
            who = "cluster" if selector == {} else f"{kind} {selector['matchLabels']}"
            found |= {(who, port) for port in ports}
    return found


def test_the_teacher_hears_its_jobs_ray_pods_and_nobody_else() -> None:
    policies = {each["metadata"]["name"]: each for each in CASES["arithmetic"].children() if "Policy" in each["kind"]}
    ray_pods = "podSelector {'opd.dev/job': 'arithmetic'}"
    operator = "namespaceSelector {'kubernetes.io/metadata.name': 'opd-system'}"
    assert allowed(policies["arithmetic-teacher"]) == {(ray_pods, 30000)}
    assert allowed(policies["arithmetic-ray"]) == {(ray_pods, "all"), ("cluster", 8265), (operator, 8080)}


def test_without_network_policies_there_are_none() -> None:
    case = CASES["arithmetic"]
    settings = make_settings(network_policies=False)
    children = JobCase(job=case.job, models=case.models, settings=settings).children()
    assert not [each for each in children if each["kind"] == "NetworkPolicy"]

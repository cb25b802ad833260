"""A watch against a scripted API server, on a clock that jumps: lists, cuts, lost versions, absent kinds."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from opd_operator.kube.api import ApiError, ApiUnavailable
from opd_operator.kube.cache import Cache
from opd_operator.kube.watch import Watch
from opd_operator.objects import JobKey, Kind

type Body = dict[str, Any]
type Make = Callable[..., Body]
type Run = Callable[[Any], Any]

KEY = JobKey("ml", "demo")
BOOKMARK = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "90"}}}
EXPIRED = {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}


class ScriptedApi:
    """Answers lists and watches from scripts; when they are over, everything waits."""

    def __init__(self, lists: list[Any], watches: list[list[Any]]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[tuple[float, str]] = []

    async def call(self, method: str, path: str, *, query: Mapping[str, str]) -> Body:
        self.asked.append((asyncio.get_running_loop().time(), f"list {query.get('continue', '')}".strip()))
        if not self.lists:
            await asyncio.sleep(1e9)
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Body]:
        self.asked.append((asyncio.get_running_loop().time(), f"watch {query['resourceVersion']}"))
        if not self.watches:
            await asyncio.sleep(1e9)
        for event in self.watches.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event


def page(*bodies: Body, version: int, more: str = "") -> Body:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(bodies)}


@pytest.fixture
def watch(run: Run, job_body: Make) -> Callable[..., tuple[ScriptedApi, list[str]]]:
    """Lets a watch of pods go through scripts; what it asked for, and the pods that are known in the end."""

    def go(lists: list[Any], watches: list[list[Any]]) -> tuple[ScriptedApi, list[str]]:
        async def main() -> tuple[ScriptedApi, list[str]]:
            api, cache = ScriptedApi(lists, watches), Cache((), lambda _: None)
            cache.put(Kind.OPD_JOB, job_body(1))
            task = asyncio.create_task(Watch(api, cache, Kind.POD, "").run())  # type: ignore[arg-type]
            await asyncio.sleep(600)
            task.cancel()
            observed = cache.observe(KEY)
            assert observed is not None
            return api, [pod.name for pod in observed.pods]

        return run(main())

    return go


def asked(api: ScriptedApi) -> list[str]:
    return [what for _, what in api.asked]


def test_a_list_comes_in_pages_and_the_watch_goes_on_from_its_version(watch: Any, child_body: Make) -> None:
    lists = [page(child_body("a", 5), version=50, more="next"), page(child_body("b", 6), version=50)]
    api, pods = watch(lists, [[{"type": "ADDED", "object": child_body("c", 60)}]])
    assert asked(api) == ["list", "list next", "watch 50", "watch 60"]
    assert pods == ["a", "b", "c"]


def test_a_cut_watch_goes_on_where_it_was_without_a_list(watch: Any, child_body: Make) -> None:
    lists = [page(child_body("a", 5), version=50)]
    api, pods = watch(
        lists, [[BOOKMARK, ApiUnavailable("reset")], [{"type": "DELETED", "object": child_body("a", 95)}]]
    )
    assert asked(api) == ["list", "watch 50", "watch 90", "watch 95"]
    assert pods == []


def test_a_forgotten_version_makes_a_list_in_which_what_vanished_is_gone(watch: Any, child_body: Make) -> None:
    lists = [page(child_body("a", 5), child_body("b", 6), version=50), page(child_body("b", 6), version=80)]
    api, pods = watch(lists, [[EXPIRED]])
    assert asked(api) == ["list", "watch 50", "list", "watch 80"]
    assert pods == ["b"]


def test_a_list_that_grew_old_between_two_pages_starts_over(watch: Any, child_body: Make) -> None:
    lists = [
        page(child_body("a", 5), version=50, more="next"),
        ApiError(410, "the provided continue parameter is too old"),
        page(child_body("b", 60), version=70),
    ]
    api, pods = watch(lists, [])
    assert asked(api) == ["list", "list next", "list", "watch 70"]
    assert pods == ["b"]


def test_a_kind_that_is_absent_is_asked_for_every_ten_seconds(watch: Any, child_body: Make) -> None:
    missing = ApiError(404, "the server could not find the requested resource")
    api, pods = watch([missing, missing, page(child_body("a", 5), version=50)], [])
    begin, *later = [when for when, _ in api.asked]
    assert [round(when - begin) for when in later] == [10, 20, 20]
    assert pods == ["a"]


def test_a_kind_that_goes_takes_its_objects_with_it(watch: Any, child_body: Make) -> None:
    missing = ApiError(404, "the server could not find the requested resource")
    api, pods = watch([page(child_body("a", 5), version=50), missing], [[missing]])
    assert asked(api) == ["list", "watch 50", "list", "list"]
    assert pods == []


FORBIDDEN = ApiError(403, 'pods is forbidden: User "opd-operator" cannot list resource "pods" in namespace "ml"')


@pytest.fixture
def scoped(run: Run, job_body: Make) -> Callable[..., tuple[list[Kind], bool, Cache]]:
    """Lets watches of namespace `ml`, each with its lists, go on for a while: of which kinds they are complete,
    whether one was silent for more than half a minute, and what is known in the end."""

    def go(scripts: dict[Kind, list[Any]], seconds: float = 600) -> tuple[list[Kind], bool, Cache]:
        async def main() -> tuple[list[Kind], bool, Cache]:
            cache = Cache(("ml", "other"), lambda _: None)
            cache.put(Kind.OPD_JOB, job_body(1))
            watches = {
                kind: Watch(ScriptedApi(lists, []), cache, kind, "ml")  # type: ignore[arg-type]
                for kind, lists in scripts.items()
            }
            tasks = [asyncio.create_task(each.run()) for each in watches.values()]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
            now = asyncio.get_running_loop().time()
            listed = [kind for kind, each in watches.items() if each.listed.is_set()]
            return listed, any(now - each.heard > 30 for each in watches.values()), cache

        return run(main())

    return go


def test_a_namespace_that_is_lost_holds_up_nobody_and_is_told_once(
    scoped: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lost = {kind: [FORBIDDEN] * 100 for kind in (Kind.OPD_JOB, Kind.POD)}
    listed, silent, cache = scoped(lost)
    assert (listed, silent) == ([Kind.OPD_JOB, Kind.POD], False)
    assert cache.observe(KEY) is None and cache.numbers() == []
    assert [each.message.split(",")[0] for each in caplog.records] == ["namespace ml is out of reach"]


def test_pods_that_may_not_be_seen_are_not_taken_for_none(scoped: Any, job_body: Make) -> None:
    jobs = [page(job_body(10), version=50)]
    listed, _, cache = scoped({Kind.OPD_JOB: jobs, Kind.POD: [FORBIDDEN] * 100})
    assert listed == [Kind.OPD_JOB, Kind.POD]
    assert cache.observe(KEY) is None


def test_a_namespace_is_back_when_all_of_it_may_be_seen_again(scoped: Any, job_body: Make, child_body: Make) -> None:
    jobs = [FORBIDDEN, page(job_body(10), version=50)]
    pods = [FORBIDDEN, FORBIDDEN, page(child_body("a", 5), version=51)]
    _, _, early = scoped({Kind.OPD_JOB: list(jobs), Kind.POD: list(pods)}, seconds=15)
    assert early.observe(KEY) is None, "its pods are not known yet"
    _, _, cache = scoped({Kind.OPD_JOB: jobs, Kind.POD: pods}, seconds=25)
    observed = cache.observe(KEY)
    assert observed is not None and [pod.name for pod in observed.pods] == ["a"]


def test_a_namespace_that_is_back_without_kuberay_is_back(scoped: Any, job_body: Make) -> None:
    missing = ApiError(404, "the server could not find the requested resource")
    jobs = [page(job_body(10), version=50)]
    _, _, cache = scoped({Kind.OPD_JOB: jobs, Kind.RAY_JOB: [FORBIDDEN, *[missing] * 100]})
    observed = cache.observe(KEY)
    assert observed is not None and not observed.kuberay


def test_an_operator_of_all_namespaces_that_may_see_none_is_ill(run: Run) -> None:
    async def main() -> tuple[bool, float]:
        api, cache = ScriptedApi([FORBIDDEN] * 100, []), Cache((), lambda _: None)
        watch = Watch(api, cache, Kind.POD, "")  # type: ignore[arg-type]
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(600)
        task.cancel()
        return watch.listed.is_set(), asyncio.get_running_loop().time() - watch.heard

    listed, silence = run(main())
    assert not listed and silence > 240


def test_a_server_that_is_away_is_not_hammered(watch: Any) -> None:
    away = [ApiUnavailable("refused") for _ in range(60)]
    api, _ = watch(list(away), [])
    assert len(asked(api)) > 50, "it never gives up"
    waits = [later - earlier for (earlier, _), (later, _) in zip(api.asked, api.asked[1:], strict=False)]
    assert all(5 <= wait <= 10 for wait in waits[10:59])


def test_a_server_that_ends_every_watch_at_once_is_not_hammered(watch: Any) -> None:
    api, _ = watch([page(version=50)], [[] for _ in range(60)])
    assert 50 < len(asked(api)) < 150

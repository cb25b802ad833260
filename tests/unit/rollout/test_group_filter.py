"""`rollout.filter`: what it keeps trains, and a filter that keeps nothing is found out."""

import pytest

from opd_runtime.errors import UserError
from opd_runtime.rollout.filters import GroupFilter


@pytest.fixture
def make_filter(tmp_path):
    def make(body: str) -> GroupFilter:
        path = tmp_path / "filters.py"
        path.write_text(f"def keep(args, samples, **kw):\n    {body}\n")
        return GroupFilter(f"{path}:keep", {"at_least": 1.0})

    return make


@pytest.fixture
def groups(make_sample):
    right, wrong = make_sample("2"), make_sample("3")
    right.reward = 1.0
    return [[right, wrong], [wrong, wrong]]


def test_without_a_filter_everything_is_kept(groups):
    assert GroupFilter("", None).apply(groups) == groups


def test_a_filter_sees_the_arguments_and_one_group_at_a_time(make_filter, groups):
    chosen = make_filter("return max(s.reward for s in samples) >= args['at_least']")
    assert chosen.apply(groups) == groups[:1]
    assert chosen.rejected == 1


def test_a_filter_that_keeps_nothing_for_ten_rounds_is_the_users_error(make_filter, groups):
    nothing = make_filter("return False")
    for _ in range(9):
        assert nothing.apply(groups) == []
    with pytest.raises(UserError, match=r"spec.rollout.filter: .* kept none of the groups of 10 rounds\nhint: loosen"):
        nothing.apply(groups)


def test_one_kept_group_starts_the_count_anew(make_filter, groups):
    sometimes = make_filter("return bool(samples)")
    for _ in range(9):
        sometimes.apply([[]])
    sometimes.apply(groups)
    for _ in range(9):
        assert sometimes.apply([[]]) == []


def test_a_filter_that_raises_is_the_users_error(make_filter, groups):
    with pytest.raises(UserError, match=r"spec.rollout.filter: .* failed: ZeroDivisionError"):
        make_filter("return 1 / 0").apply(groups)

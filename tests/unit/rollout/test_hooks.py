"""A user's functions are found by path and refused, with the signature in the message, before anything starts."""

import sys
from pathlib import Path

import pytest

from opd_runtime.errors import UserError
from opd_runtime.rollout.hooks import FILTER, GENERATE, POST_PROCESS, REWARD, load_hook

SOURCE = """
calls = 0
async def good(args, sample, **kw): return 1.0
def plain(args, sample, **kw): return 1.0
def no_keywords(args, sample): return 1.0
def too_few(args, **kw): return 1.0
def too_many(args, sample, more, **kw): return 1.0
def keyword_only(args, *, sample, **kw): return 1.0
def anything(*args, **kw): return 1.0
async def generate(args, prompt, engine, **kw): return None
number = 3
class Judge:
    async def __call__(self, args, sample, **kw): return 1.0
judge = Judge()
"""


@pytest.fixture
def hooks_file(tmp_path: Path) -> Path:
    (tmp_path / "my_hooks.py").write_text(SOURCE)
    return tmp_path / "my_hooks.py"


@pytest.mark.parametrize("name", ["good", "plain", "anything", "judge"])
def test_a_function_that_fits_is_loaded_from_a_file(hooks_file, name):
    assert callable(load_hook(f"{hooks_file}:{name}", REWARD))


def test_a_function_is_loaded_by_its_dotted_path(hooks_file, monkeypatch):
    monkeypatch.syspath_prepend(hooks_file.parent)
    assert load_hook("my_hooks.good", REWARD) is sys.modules.pop("my_hooks").good


def test_two_hooks_of_one_file_share_its_state(hooks_file):
    good, plain = (load_hook(f"{hooks_file}:{name}", REWARD) for name in ("good", "plain"))
    assert good.__globals__ is plain.__globals__


@pytest.mark.parametrize("name", ["no_keywords", "too_few", "too_many", "keyword_only", "number"])
def test_a_function_that_does_not_fit_is_refused_with_the_signature(hooks_file, name):
    with pytest.raises(UserError) as error:
        load_hook(f"{hooks_file}:{name}", REWARD)
    assert error.value.path == "spec.reward.function"
    assert error.value.hint == "it must be: async def reward(args, sample, **kw) -> float"


def test_a_generate_function_must_be_async(hooks_file):
    load_hook(f"{hooks_file}:generate", GENERATE)
    with pytest.raises(UserError, match="is not async"):
        load_hook(f"{hooks_file}:anything", GENERATE)


@pytest.mark.parametrize(
    ("dotted", "want"),
    [
        pytest.param("nodots", "names no function", id="no module"),
        pytest.param("no_such_module_here.f", "ModuleNotFoundError: No module named", id="no such module"),
        pytest.param("json.no_such", "json has no no_such", id="no such function"),
        pytest.param("/no/such/file.py:f", "FileNotFoundError", id="no such file"),
    ],
)
def test_a_path_that_leads_nowhere_says_why(dotted, want):
    with pytest.raises(UserError, match=want):
        load_hook(dotted, FILTER)


def test_a_module_that_fails_while_imported_says_how(tmp_path):
    (tmp_path / "bad.py").write_text("1 / 0")
    for _ in range(2):  # a failed import leaves nothing behind that would hide the second failure
        with pytest.raises(UserError, match=r"spec.reward.postProcess.*ZeroDivisionError: division by zero"):
            load_hook(f"{tmp_path}/bad.py:f", POST_PROCESS)

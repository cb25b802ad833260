"""Order, mixing and resumption of the prompt stream. The files' own errors are in test_prompt_files.py."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opd_runtime.config import PromptSource
from opd_runtime.errors import UserError
from opd_runtime.rollout.data import PromptStream, held_out_prompts
from opd_runtime.rollout.sample import Prompt

SAME_FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def sources(write_prompts) -> list[PromptSource]:
    """Sizes 5 and 3, weights 3 to 1, one prompt longer than 8 tokens in the first."""
    first = [{"prompt": f"a{i}"} for i in range(4)] + [{"prompt": "a" * 9}]
    return [
        write_prompts(*first, name="first.jsonl", weight=3.0),
        write_prompts(*[{"prompt": f"b{i}"} for i in range(3)], name="second.jsonl", weight=1.0),
    ]


@pytest.fixture
def open_stream(sources, tokenizer, make_data):
    def open_stream(
        seed: int = 7, *, max_prompt_tokens: int = 8, only: list[PromptSource] | None = None, **data: object
    ) -> PromptStream:
        return PromptStream(sources if only is None else only, tokenizer, make_data(**data), max_prompt_tokens, seed)

    return open_stream


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]


@SAME_FILES
@given(takes=st.lists(st.integers(0, 9), max_size=8))
def test_any_split_into_takes_gives_the_same_stream(open_stream, takes):
    whole = open_stream().take(sum(takes))
    stream = open_stream()
    pieces = [prompt for count in takes for prompt in stream.take(count)]
    assert pieces == whole


@SAME_FILES
@given(before=st.integers(0, 40), after=st.integers(0, 40), wasted=st.integers(0, 5))
def test_a_stream_restored_anywhere_continues_as_if_never_interrupted(open_stream, before, after, wasted):
    uninterrupted = open_stream()
    uninterrupted.take(before)
    stream = open_stream()
    stream.take(before)
    state = json.loads(json.dumps(stream.state()))
    stream.take(wasted)  # prompts of the step that was lost
    resumed = open_stream()
    resumed.restore(state)
    assert resumed.take(after) == uninterrupted.take(after)
    assert resumed.state() == uninterrupted.state()
    assert resumed.dropped == uninterrupted.dropped


def test_an_index_is_never_given_twice(open_stream):
    assert [prompt.index for prompt in open_stream().take(50)] == list(range(50))


def test_every_epoch_holds_every_prompt_once_in_another_order(open_stream, sources):
    prompts = texts(open_stream(only=sources[1:]).take(30))
    epochs = [prompts[i : i + 3] for i in range(0, 30, 3)]
    assert all(sorted(epoch) == ["b0", "b1", "b2"] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_without_shuffle_the_order_is_the_files(open_stream, sources):
    assert texts(open_stream(only=sources[:1], shuffle=False).take(6)) == ["a0", "a1", "a2", "a3", "a0", "a1"]


def test_another_seed_gives_another_order(open_stream):
    assert texts(open_stream(seed=1).take(20)) != texts(open_stream(seed=2).take(20))


def test_every_window_holds_the_weights_proportions(open_stream):
    from_first = [prompt.source == 0 for prompt in open_stream().take(80)]
    assert all(sum(from_first[i : i + 4]) == 3 for i in range(0, 80, 4))


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.7, 0.2, 0.1), (1e-3, 1, 5)])
def test_no_source_is_ever_a_whole_prompt_off_its_share(write_prompts, tokenizer, make_data, weights):
    sources = [write_prompts({"prompt": "a"}, name=f"{i}.jsonl", weight=weight) for i, weight in enumerate(weights)]
    taken = [0, 0, 0]
    for count, prompt in enumerate(PromptStream(sources, tokenizer, make_data(), 8, 0).take(300), start=1):
        taken[prompt.source] += 1
        assert all(abs(t - count * w / sum(weights)) < 1.0 for t, w in zip(taken, weights, strict=True))


def test_too_long_prompts_are_dropped_and_counted_each_time_they_come_up(open_stream, sources):
    stream = open_stream(only=sources[:1])
    assert "a" * 9 not in texts(stream.take(9))
    assert stream.dropped in (2, 3)  # two whole epochs are behind, the third may have begun with it


def test_a_prompt_of_exactly_the_limit_is_kept(open_stream, sources):
    assert "a" * 9 in texts(open_stream(only=sources[:1], max_prompt_tokens=9).take(5))


def test_a_source_of_which_every_prompt_is_too_long_is_the_users_error(open_stream):
    with pytest.raises(UserError, match=r"all 5 prompts are longer than rollout.maxPromptTokens: 1\nhint: raise"):
        open_stream(max_prompt_tokens=1).take(1)


def test_a_source_named_twice_is_refused(open_stream, sources):
    with pytest.raises(UserError, match="names a source twice"):
        open_stream(only=[sources[0], sources[0]])


def test_a_file_that_grew_since_the_checkpoint_is_refused(open_stream, sources):
    state = open_stream().state()
    with Path(sources[1].path).open("a") as file:
        file.write('{"prompt": "new"}\n')
    with pytest.raises(UserError, match=r"second.jsonl: has 4 records; it had 3 when .*\nhint: put the old file back"):
        open_stream().restore(state)


def test_a_source_added_to_a_suspended_job_starts_at_its_beginning_and_the_other_goes_on(open_stream, sources):
    old = open_stream(only=sources[1:])
    old.take(4)
    new = open_stream(shuffle=True)
    new.restore(old.state())
    prompts = new.take(8)
    assert [prompt.index for prompt in prompts] == list(range(4, 12))
    assert texts([p for p in prompts if p.source == 1]) == texts(old.take(2))
    assert sum(prompt.source == 0 for prompt in prompts) == 6


def test_ids_outside_the_models_vocabulary_name_the_line(make_tokenizer_folder, write_prompts, make_data):
    from opd_runtime.rollout.tokenizer import PromptTokenizer

    folder = make_tokenizer_folder(extra="€")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] - 1}))
    source = write_prompts({"prompt": "abc"}, {"prompt": "a€"})
    stream = PromptStream([source], PromptTokenizer(folder, apply_chat_template=False), make_data(shuffle=False), 8, 0)
    with pytest.raises(UserError, match=r"prompts.jsonl line 2: token id \d+ is outside the model's vocabulary of \d+"):
        stream.take(2)


def test_label_and_record_travel_with_the_prompt(write_prompts, tokenizer, make_data):
    source = write_prompts({"prompt": "1+1=", "label": 2, "level": "easy"}, {"prompt": "1+2=", "label": None})
    first, second = PromptStream([source], tokenizer, make_data(shuffle=False), 8, 0).take(2)
    assert (first.label, first.record["level"]) == ("2", "easy")
    assert second.label is None


def test_held_out_prompts_come_once_each_in_file_order(sources, tokenizer, make_data):
    assert texts(held_out_prompts(sources[1:], tokenizer, make_data(), 8)) == ["b0", "b1", "b2"]


def test_a_held_out_prompt_that_is_too_long_is_an_error_not_a_gap(sources, tokenizer, make_data):
    with pytest.raises(UserError, match=r"first.jsonl line 5: is longer than rollout.maxPromptTokens: 8"):
        held_out_prompts(sources, tokenizer, make_data(), 8)

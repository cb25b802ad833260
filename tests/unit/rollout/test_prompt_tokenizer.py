"""Prompts to ids and back, with and without a chat template."""

import json

import pytest

from opd_runtime.errors import UserError
from opd_runtime.rollout.tokenizer import PromptTokenizer

CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}:{{ m['content'] }}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def chat(make_tokenizer_folder) -> PromptTokenizer:
    return PromptTokenizer(make_tokenizer_folder(chat_template=CHAT_TEMPLATE), apply_chat_template=True)


def test_a_string_becomes_one_user_message(chat):
    assert chat.render("1+1=") == "[user:1+1=][assistant:"


def test_messages_are_rendered_as_they_are(chat):
    messages = [{"role": "system", "content": "add"}, {"role": "user", "content": "1+1="}]
    assert chat.render(messages) == "[system:add][user:1+1=][assistant:"


def test_a_prompt_that_the_template_refuses_names_its_reason(make_tokenizer_folder):
    template = "{{ raise_exception('roles must alternate') }}"
    strict = PromptTokenizer(make_tokenizer_folder(chat_template=template), apply_chat_template=True)
    with pytest.raises(
        UserError, match=r"chat template does not take this prompt \(TemplateError: roles must alternate"
    ):
        strict.render([{"role": "tool", "content": None}])


def test_plain_text_passes_unchanged(tokenizer):
    assert tokenizer.render("1+1=") == "1+1="


def test_messages_without_a_template_are_refused(tokenizer):
    with pytest.raises(UserError, match=r"list of messages\nhint: set data.applyChatTemplate: true"):
        tokenizer.render([{"role": "user", "content": "a"}])


def test_a_tokenizer_without_a_template_is_refused_at_start(make_tokenizer_folder):
    with pytest.raises(
        UserError,
        match=r"spec.data.applyChatTemplate: true, but .* no chat template\nhint: set data.applyChatTemplate: false",
    ):
        PromptTokenizer(make_tokenizer_folder(), apply_chat_template=True)


def test_decoding_leaves_special_tokens_out(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("12"), 1, 0]) == "12"


def test_every_file_that_names_an_end_of_sequence_counts(make_tokenizer_folder):
    folder = make_tokenizer_folder()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 3]}))
    assert PromptTokenizer(folder, apply_chat_template=False).eos_ids == (1, 3, 5)

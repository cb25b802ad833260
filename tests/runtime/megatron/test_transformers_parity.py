"""Log-probs of Megatron's model against transformers' on the same weights, FP32. The layer spec is the portable one."""

import numpy as np
import pytest

from opd_runtime.errors import UserError

TOLERANCE = 1e-5
LENGTHS = [(1, 9), (4, 13), (6, 1), (3, 7), (11, 20), (2, 5)]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        pytest.param("qwen3", {}, id="Qwen3, tied"),
        pytest.param("qwen3", {"tie_word_embeddings": False}, id="Qwen3, untied"),
        pytest.param("llama", {}, id="Llama, untied"),
        pytest.param("llama", {"tie_word_embeddings": True}, id="Llama, tied"),
        pytest.param("qwen3", {"num_key_value_heads": 4}, id="as many key heads as query heads"),
        pytest.param("llama", {"num_key_value_heads": 1}, id="one key head"),
        pytest.param("qwen3", {"head_dim": 24}, id="heads wider than hidden size / heads"),
        pytest.param("llama", {"head_dim": 8}, id="heads narrower than hidden size / heads"),
        pytest.param("llama", {"rope_parameters": LLAMA3_ROPE, "head_dim": 64}, id="rope scaling of Llama 3"),
        pytest.param("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, id="rope theta"),
        pytest.param("qwen3", {"rms_norm_eps": 0.1}, id="epsilon of the norms"),
    ],
)
def test_token_logprobs_are_those_of_transformers(
    family, changes, tiny_model, make_config, make_batch, hf_logprobs, logprobs_of
):
    student, batch = tiny_model(family, **changes), make_batch(LENGTHS)
    got = logprobs_of(make_config(student), batch)
    np.testing.assert_allclose(got, hf_logprobs(student, batch), atol=TOLERANCE, rtol=0)


def test_temperature_divides_the_logits(tiny_model, make_config, make_batch, hf_logprobs, logprobs_of):
    from opd_api.spec import Rollout

    student, batch = tiny_model(), make_batch(LENGTHS)
    got = logprobs_of(make_config(student, rollout=Rollout(temperature=0.6)), batch)
    np.testing.assert_allclose(got, hf_logprobs(student, batch, 0.6), atol=TOLERANCE, rtol=0)


def test_padding_changes_nothing(tiny_model, make_config, make_batch, logprobs_of):
    """Alone in its micro-batch no sample is padded; in one large micro-batch all but the longest are."""
    student, batch = tiny_model(), make_batch(LENGTHS)
    alone = logprobs_of(make_config(student, max_tokens=1), batch)
    together = logprobs_of(make_config(student, max_tokens=4096), batch)
    np.testing.assert_allclose(together, alone, atol=TOLERANCE, rtol=0)


def test_transformers_is_right_in_a_trainer_process_too(
    tiny_model, make_config, make_batch, hf_logprobs, ranks, tmp_path
):
    """The CPU layer replaces torch's factories; transformers builds its models with them."""
    student = tiny_model("llama")
    tokens = np.arange(24).reshape(2, 12)
    np.testing.assert_allclose(ranks.run(transformers_logits, student, tokens)[0], transformers_logits(student, tokens))


def transformers_logits(folder, tokens):
    import torch
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(
            torch.from_numpy(tokens)
        ).logits.numpy()


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param({"model_type": "gpt2"}, "model_type 'gpt2'", id="another architecture"),
        pytest.param({"attention_bias": True}, "attention_bias", id="biases"),
        pytest.param({"hidden_act": "gelu"}, "hidden_act 'gelu'", id="another activation"),
        pytest.param(
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "'yarn'", id="rope scaling"
        ),
        pytest.param(
            {"rope_parameters": LLAMA3_ROPE | {"high_freq_factor": 2.0}},
            "high_freq_factor",
            id="rope of Llama 3, changed",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(changes, want, tiny_model, ranks, tmp_path):
    import json

    config = json.loads((tiny_model("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=want):
        ranks.run(read_config, tmp_path)


def read_config(folder):
    from opd_runtime.megatron.model import read_hf_config

    read_hf_config(folder)


def test_a_vocabulary_that_tensor_parallelism_does_not_divide_is_refused(
    tiny_model, make_config, make_batch, logprobs_of
):
    student = tiny_model(vocab_size=97)
    with pytest.raises(UserError, match="vocabulary of 97 rows"):
        logprobs_of(make_config(student, tensor=2), make_batch(LENGTHS))

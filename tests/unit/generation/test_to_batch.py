"""Samples to flat arrays."""

import numpy as np
import pytest

from opd_runtime.rollout.generate import to_batch


def test_ragged_samples_are_laid_one_after_the_other(make_answered):
    batch = to_batch(
        [
            make_answered((2, 3), (4, 5, 6), group=0, reward=1.0, teacher_logprobs=[-1.0, -2.0, -3.0]),
            make_answered((7,), (8,), group=1, engine_logprobs=[-0.25], teacher_logprobs=[-4.0]),
        ],
        kl_coef=0.5,
    )
    assert batch.tokens_S.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert (batch.prompt_lengths_B.tolist(), batch.response_lengths_B.tolist()) == ([2, 1], [3, 1])
    assert batch.engine_logprobs_N.tolist() == [-0.5, -0.5, -0.5, -0.25]
    assert batch.teacher_logprobs_N.tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert batch.rewards_B.tolist() == [1.0, 0.0]
    assert batch.groups_B.tolist() == [0, 1]
    assert batch.mask_N.all() and batch.valid_B.all() and batch.kl_coef == 0.5


def test_a_failed_sample_stays_in_and_is_masked_throughout(make_answered):
    failed = make_answered(failure="teacher: garbage")
    batch = to_batch([failed, make_answered(teacher_logprobs=[-1.0, -1.0])], kl_coef=1.0)
    assert batch.valid_B.tolist() == [False, True]
    assert batch.mask_N.tolist() == [False, False, True, True]
    assert np.isnan(batch.teacher_logprobs_N[:2]).all() and (batch.teacher_logprobs_N[2:] == -1).all()


def test_tokens_that_the_sample_masks_stay_masked(make_answered):
    batch = to_batch([make_answered(loss_mask=[False, True])], kl_coef=1.0)
    assert batch.mask_N.tolist() == [False, True]


def test_without_a_scorer_there_are_no_teacher_logprobs(make_answered):
    assert to_batch([make_answered()], kl_coef=1.0).teacher_logprobs_N is None


def test_a_response_of_zero_tokens_has_no_place_in_the_flat_arrays(make_answered):
    batch = to_batch([make_answered((2,), (), failure="engine: a response of zero tokens"), make_answered()], kl_coef=1)
    assert batch.response_lengths_B.tolist() == [0, 2]
    assert len(batch.mask_N) == len(batch.engine_logprobs_N) == 2 and batch.mask_N.all()


def test_dtypes_are_those_of_the_contract(make_answered):
    batch = to_batch([make_answered(teacher_logprobs=[-1.0, -1.0])], kl_coef=1.0)
    assert (batch.tokens_S.dtype, batch.groups_B.dtype) == (np.int32, np.int32)
    assert (batch.mask_N.dtype, batch.valid_B.dtype) == (np.bool_, np.bool_)
    assert (batch.engine_logprobs_N.dtype, batch.teacher_logprobs_N.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("field", ["engine_logprobs", "loss_mask", "teacher_logprobs"])
def test_lengths_that_differ_are_our_bug_and_stop_here(make_answered, field):
    with pytest.raises(AssertionError):
        to_batch([make_answered(**{field: [True]})], kl_coef=1.0)

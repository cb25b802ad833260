"""One rank of the student's trainer: log-probs, advantages, OPD term, updates; weights out, checkpoints in and out.

Every rank sees the whole step (N floats are small): only forward and backward passes are split, and no statistic
depends on the parallel layout.

Shapes: B samples of the step, N response tokens packed, [b, s] a padded micro-batch with n response tokens.
"""

import gc
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from . import cpu

cpu.install()

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from ..batch import Batch, StepResult
from ..config import MegatronTeacher, TrainConfig
from ..errors import UserError
from . import checkpoint
from .batching import MicroBatch, Packer, update_split
from .convert import copy_companions, export_hf, save_hf_shards
from .logprobs import logits_of_rows, token_logprobs
from .model import build_model, megatron_config, read_hf_config
from .objective import Objective, needs_old_logprobs
from .optimizer import set_rates, wrap
from .schedule import learning_rate
from .teacher import FrozenModel

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
MOST_THREADS = 8
"""Copying in host memory gains nothing from more."""
GREEDY_ROWS = 256
"""Most prompts that are decoded together."""


class Trainer:
    """Expects RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Every method is a collective."""

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg = cfg
        gc.freeze()  # imported modules stay for good: collections, which Megatron asks for when it saves, skip them
        init_distributed(cfg)
        self.rank = dist.get_rank()
        self.device = torch.device("cuda", torch.cuda.current_device()) if cfg.device == "cuda" else torch.device("cpu")
        self.hf = read_hf_config(cfg.student_path)
        config = megatron_config(
            self.hf,
            bf16=cfg.bf16,
            sequence_parallel=cfg.sequence_parallel,
            recompute_full=cfg.student.recompute == "Full",
        )
        self.model = build_model(self.hf, config)
        checkpoint.load_weights(cfg.student_load or cfg.student_path, self.model, self.hf)
        self.model.to(self.device)
        self.ddp, self.adam = wrap(self.model, config, cfg.optimizer, bf16=cfg.bf16)
        self.teacher = self._teacher()
        self.reference = self._reference()

    def _teacher(self) -> FrozenModel | None:
        teacher = self.cfg.teacher
        if not isinstance(teacher, MegatronTeacher):
            return None
        return self._frozen(teacher.model_path, teacher.offloaded, teacher.load, teacher.checkpoint_step)

    def _reference(self) -> FrozenModel | None:
        """Without a model of its own it is what the student begins as."""
        path = self.cfg.reference_path
        load = None if self.cfg.algorithm.reference.model else self.cfg.student_load
        return None if path is None else self._frozen(path, offloaded=True, load=load)

    def _frozen(self, path: Path, offloaded: bool, load: Path | None = None, step: int | None = None) -> FrozenModel:
        return FrozenModel(
            path,
            bf16=self.cfg.bf16,
            sequence_parallel=self.cfg.sequence_parallel,
            offloaded=offloaded,
            load=load,
            checkpoint_step=step,
        )

    # ----------------------------------------------------------------------------------------------------------- a step
    def train_step(self, batch: Batch, step: int) -> StepResult:
        """Log-probs, advantages, then epochsPerStep x updatesPerStep optimizer steps.

        Raises UserError for a gradient that is not finite.
        """
        packer = self._packer(batch)
        clock = {"logprobs": self._now()}
        old_N = self._logprobs(self.ddp, packer) if needs_old_logprobs(self.cfg.algorithm) else None
        ref_N = self._frozen_logprobs(self.reference, packer)
        clock["teacher"] = self._now()
        teacher_N = self._frozen_logprobs(self.teacher, packer)
        if teacher_N is None:
            teacher_N = torch.from_numpy(_given_logprobs(batch)).to(self.device)
        clock["update"] = self._now()
        objective = Objective(self.cfg, batch, old_N=old_N, teacher_N=teacher_N, ref_N=ref_N)
        metrics = self._updates(packer, objective, step)
        if old_N is None:
            self._put_together(objective.old_N)
        metrics |= objective.metrics()
        if self.reference and _due(step + 1, self.cfg.algorithm.reference.update_every_steps):
            self.reference.copy_from(parameter.data for parameter in self.model.parameters())
        times = [*clock.values(), self._now()]
        seconds = {name: after - before for name, before, after in zip(clock, times[:-1], times[1:], strict=True)}
        return StepResult(metrics=metrics, seconds=seconds)

    def _now(self) -> float:
        """Seconds, once the device has done what it was asked for: else a part's work counts to the next."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _updates(self, packer: Packer, objective: Objective, step: int) -> dict[str, float]:
        algorithm, rate = self.cfg.algorithm, learning_rate(self.cfg.optimizer, step, self.cfg.steps)
        set_rates(self.adam, rate, self.cfg.optimizer.weight_decay)
        totals = torch.zeros(5, dtype=torch.float64, device=self.device)
        norms = []
        for epoch in range(algorithm.epochs_per_step):
            for samples in update_split(packer.trainable, algorithm.updates_per_step, (self.cfg.seed, step, epoch)):
                own = packer.micro_batches(samples, parallel_state.get_data_parallel_rank())
                parts, norm = self._update(own, objective)
                totals += parts
                norms.append(norm)
                if not np.isfinite(norm):
                    raise UserError(
                        f"the gradient of step {step} is not finite",
                        path="spec.optimizer.lr",
                        hint="lower the learning rate, set distillation.maxLogRatio, or look at the step's samples",
                    )
        if not norms:
            return {"policy/lr": rate}
        dist.all_reduce(totals, group=parallel_state.get_data_parallel_group())
        loss, count, clipped, ppo_kl, entropy = totals.tolist()
        tokens = max(float(objective.given.mask_N.sum()) * algorithm.epochs_per_step, 1.0)
        return {
            "policy/loss": loss / max(count, 1.0),
            "policy/clip_frac": clipped / tokens,
            "policy/ppo_kl": ppo_kl / tokens,
            "policy/entropy": entropy / tokens,
            "policy/grad_norm": float(np.mean(norms)),
            "policy/lr": rate,
        }

    def _update(self, micro_batches: list[MicroBatch], objective: Objective) -> tuple[Tensor, float]:
        """One optimizer step: this rank's sums (loss, its denominator, clipped, ppo_kl, entropy), the gradient norm."""
        self.ddp.zero_grad_buffer()
        self.adam.zero_grad()

        def forward(batches: Iterator[MicroBatch], model):
            micro = next(batches)
            logits = self._forward(model, micro)

            def loss(logits: Tensor):
                logprobs_n, entropy_n = self._token_logprobs(logits, micro, with_entropy=True)
                return objective.loss(micro, logprobs_n, entropy_n)

            return logits, loss

        results = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iter(micro_batches),
            model=[self.ddp],
            num_microbatches=len(micro_batches),
            seq_length=micro_batches[0].tokens_bs.shape[1],
            micro_batch_size=len(micro_batches[0].tokens_bs),
            forward_only=False,
        )
        _, norm, _ = self.adam.step()
        return torch.stack([result["sums"] for result in results]).sum(0), float(norm or 0.0)

    # -------------------------------------------------------------------------------------------------------- log-probs
    def logprobs(self, batch: Batch, model: str = "student") -> np.ndarray:
        """log p of every response token of the step, in sample order; `model`: student, teacher or reference."""
        packer = self._packer(batch)
        if model == "student":
            return self._logprobs(self.ddp, packer).cpu().numpy()
        scored = self._frozen_logprobs({"teacher": self.teacher, "reference": self.reference}[model], packer)
        assert scored is not None, f"this job has no {model} in the trainer"
        return scored.cpu().numpy()

    def _frozen_logprobs(self, frozen: FrozenModel | None, packer: Packer) -> Tensor | None:
        if frozen is None:
            return None
        with frozen.on_device() as model:
            return self._logprobs(model, packer)

    @torch.no_grad()
    def _logprobs(self, model, packer: Packer) -> Tensor:
        """Each rank scores its share."""
        scored_N = torch.zeros(int(packer.responses_B.sum()), device=self.device)
        for micro in packer.micro_batches(packer.trainable, parallel_state.get_data_parallel_rank()):
            logprobs_n, _ = self._token_logprobs(self._forward(model, micro), micro)
            scored_N[self._tensor(micro.flat_n)] = logprobs_n
        self._put_together(scored_N)
        return scored_N

    def _put_together(self, scored_N: Tensor) -> None:
        """Of a step's tokens each data-parallel rank has its share, and 0 elsewhere."""
        if self.cfg.data_parallel > 1:
            dist.all_reduce(scored_N, group=parallel_state.get_data_parallel_group())

    def _forward(self, model, micro: MicroBatch) -> Tensor:
        return self._logits(model, self._tensor(micro.tokens_bs), self._tensor(micro.rows_n))

    def _logits(self, model, tokens_bs: Tensor, rows_n: Tensor) -> Tensor:
        """[n, v] in the model's precision: FP32 copies are made in chunks, where log-probs are computed."""
        return logits_of_rows(model, tokens_bs, rows_n, **({"fp32_output": False} if self.cfg.bf16 else {}))

    def _token_logprobs(
        self, logits_nv: Tensor, micro: MicroBatch, *, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        targets_n = self._tensor(micro.targets_n)
        return token_logprobs(logits_nv, targets_n, temperature=self.cfg.rollout.temperature, with_entropy=with_entropy)

    def _packer(self, batch: Batch) -> Packer:
        return Packer(
            batch,
            max_tokens=self.cfg.student.max_tokens_per_gpu,
            data_parallel=self.cfg.data_parallel,
            multiple_of=self._length_multiple,
        )

    @property
    def _length_multiple(self) -> int:
        """Sequence parallelism splits every sequence over the tensor-parallel group."""
        return self.cfg.tensor_parallel if self.cfg.sequence_parallel else 1

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    @torch.no_grad()
    def teacher_greedy(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos_ids: Sequence[int]
    ) -> list[list[int]]:
        """The in-process teacher's greedy answers, without a KV cache: for a one-off evaluation with short answers.

        An answer ends before its first end-of-sequence token.
        """
        assert self.teacher is not None
        answers: list[list[int]] = [[] for _ in prompts]
        by_length: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt), []).append(index)
        with self.teacher.on_device() as model:
            for indices in by_length.values():
                for start in range(0, len(indices), GREEDY_ROWS):
                    chunk = indices[start : start + GREEDY_ROWS]
                    tokens = torch.tensor([list(prompts[index]) for index in chunk], device=self.device)
                    decoded = self._greedy(model, tokens, max_new_tokens, eos_ids).tolist()
                    for index, ids in zip(chunk, decoded, strict=True):
                        end = next((place for place, token in enumerate(ids) if token in eos_ids), len(ids))
                        answers[index] = ids[:end]
        return answers

    def _greedy(self, model, tokens: Tensor, max_new_tokens: int, eos_ids: Sequence[int]) -> Tensor:
        """Likeliest continuations of equally long prompts, [b, up to max_new_tokens]: less when every row has ended."""
        prompt_length, ends = tokens.shape[1], torch.tensor(list(eos_ids), device=self.device)
        ended_b = torch.zeros(len(tokens), dtype=torch.bool, device=self.device)
        for _ in range(max_new_tokens):
            padded = torch.nn.functional.pad(tokens, (0, -tokens.shape[1] % self._length_multiple))
            last_b = torch.arange(len(tokens), device=self.device) * padded.shape[1] + tokens.shape[1] - 1
            logits_bv = self._logits(model, padded, last_b)
            best_b = tensor_parallel.gather_from_tensor_model_parallel_region(logits_bv).argmax(-1)
            tokens = torch.cat([tokens, best_b[:, None]], dim=1)
            ended_b |= torch.isin(best_b, ends)
            if ended_b.all():
                break
        return tokens[:, prompt_length:]

    # --------------------------------------------------------------------------------------------- weights, checkpoints
    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The student's weights under their Hugging Face names, full tensors, one by one."""
        return export_hf(self.model, self.hf)

    def save(self, step: int, driver_state: dict[str, Any], keep: int | None = None) -> Path:
        """`keep`: how many checkpoints stay, when that is not what the job began with."""
        return checkpoint.save(
            self.cfg.checkpoint_dir,
            step,
            self.model,
            self.adam,
            reference=self._moving_reference,
            identity=self.cfg.uid,
            state=driver_state,
            keep=keep or self.cfg.checkpoint.keep,
        )

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and driver state of the newest complete checkpoint, now loaded; None without one."""
        return checkpoint.load_latest(
            self.cfg.checkpoint_dir, self.model, self.adam, reference=self._moving_reference, identity=self.cfg.uid
        )

    @property
    def _moving_reference(self) -> torch.nn.Module | None:
        """The reference where it follows the student: its weights are then part of a checkpoint."""
        if self.reference is None or self.cfg.algorithm.reference.update_every_steps is None:
            return None
        return self.reference.model

    def export_hf(self, path: Path) -> None:
        """The student as a Hugging Face folder: config, tokenizer, safetensors. Replaces `path` when it is complete."""
        part = path.with_name(path.name + ".part")
        if self.rank == 0:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            copy_companions(self.cfg.student_path, part)
        save_hf_shards(self.named_weights(), part, write=self.rank == 0)
        if self.rank == 0:
            shutil.rmtree(path, ignore_errors=True)
            part.rename(path)
        dist.barrier()

    def close(self) -> None:
        """Leaves the groups; memory is free once the trainer is forgotten."""
        # Gradient hooks (in C++) hold the model, it its configuration, that the optimizer, and it the hooked gradients:
        # a ring that Python's collector cannot see whole.
        self.ddp.config.grad_scale_func = None
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def init_distributed(cfg: TrainConfig) -> None:
    """torch.distributed (NCCL on CUDA, gloo on CPU) and Megatron's groups over it."""
    torch.set_num_threads(_threads(cfg))
    # Else torch rounds pinned memory up to powers of two: an offloaded model could take twice its size. Read once, by
    # whatever uses an accelerator first.
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "pinned_max_round_threshold_mb:1")
    if cfg.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if cfg.device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=cfg.tensor_parallel)
    tensor_parallel.model_parallel_cuda_manual_seed(cfg.seed)


def _threads(cfg: TrainConfig) -> int:
    """Ray gives every actor one. Beside a GPU a rank's share of the cores is free: for checkpoints, for an optimizer in
    host memory."""
    if cfg.device == "cuda":
        return min(max(len(os.sched_getaffinity(0)) // cfg.student.trainers.gpus_per_replica, 1), MOST_THREADS)
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def _given_logprobs(batch: Batch) -> np.ndarray:
    """Of an SGLang teacher: they came with the batch. 0 where nothing trains, which may be everywhere."""
    if batch.teacher_logprobs_N is None:
        assert not batch.mask_N.any(), "a sample that trains has its teacher's log-probs"
        return np.zeros(len(batch.mask_N), np.float32)
    return np.where(batch.mask_N, batch.teacher_logprobs_N, 0.0).astype(np.float32)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0

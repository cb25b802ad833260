"""What a teacher is asked before it may teach this student: the probe's text and tokenizer questions, as ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..model_summary import TOKENIZER_PROBES
from .tokenizer import PromptTokenizer

PROBE_TEXT = "12+30=42. The quick brown fox jumps over the lazy dog; 3 * (7 - 2) = 15, and 99+1=100."


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherQuestions:
    """Arguments of `teacher.probe.probe` that only the student's folder can give."""

    probe_ids: tuple[int, ...]
    vocab_size: int
    token_probes: Mapping[str, tuple[int, ...]]
    """Text -> the student tokenizer's ids, no special tokens added."""


def teacher_questions(student_path: Path) -> TeacherQuestions:
    """Raises UserError when the tokenizer makes fewer than 3 tokens of the probe's text."""
    from transformers import AutoTokenizer

    tokenizer = PromptTokenizer(student_path, apply_chat_template=False)
    plain = AutoTokenizer.from_pretrained(student_path, local_files_only=True)
    probe_ids = tokenizer.encode(PROBE_TEXT)
    if len(probe_ids) < 3:
        raise UserError(f"the tokenizer makes {len(probe_ids)} tokens of {PROBE_TEXT!r}", path=str(student_path))
    return TeacherQuestions(
        probe_ids=probe_ids,
        vocab_size=tokenizer.vocab_size,
        token_probes={text: tuple(plain.encode(text, add_special_tokens=False)) for text in TOKENIZER_PROBES},
    )

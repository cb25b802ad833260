"""Everything Megatron-core: student trainer, in-process teacher, converter, checkpoints. Knows no SGLang, no Ray."""

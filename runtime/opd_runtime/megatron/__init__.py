"""Everything Megatron-core: student trainer, teacher in the same process, converter, checkpoints. Knows no SGLang, no Ray."""

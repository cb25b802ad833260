"""The maths of on-policy distillation: tensors in, tensors out. Knows no job, no server, no Megatron.

Shapes: B samples in the step, N all response tokens packed one sample after the other (lengths_B sums to N).
Log-probs are nats, fp32, of the token that was generated. Masked tokens contribute to nothing.
"""

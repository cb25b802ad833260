"""What people and programs see of a run: one record a step, sent to console, metrics.jsonl, TensorBoard, progress.json.

Reads numbers, makes none: knows no samples, no tensors, no Ray. `Reporter` is the one door; the rest stands alone.
"""

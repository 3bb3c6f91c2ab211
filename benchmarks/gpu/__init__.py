"""Whether a GPU computes what the processor does, and how fast: `python -m benchmarks gpu`, see docs/gpu.md."""

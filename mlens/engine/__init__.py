"""The DeepSpeed engine of a run: ranks, training steps, checkpoints, export, and how a run stops."""

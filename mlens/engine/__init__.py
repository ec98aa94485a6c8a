"""Config + model -> a DeepSpeed engine on this rank: forward, backward, checkpoints, export."""

"""Config -> a causal language model (random tiny, hub id or local folder), its tokenizer, attention and LoRA."""

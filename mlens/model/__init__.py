"""The causal language model (tiny and random, or pretrained), its tokenizer, attention, LoRA and forward pass."""

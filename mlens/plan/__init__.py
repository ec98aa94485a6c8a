"""What a run will take, before it takes it: prompts, tokens, steps, memory, time and disk."""

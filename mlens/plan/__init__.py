"""Estimates of a run before it starts: prompt lengths, tokens, steps, memory, time and disk."""

"""Renders ratings as prompts, as text and as tokens, both from one list of pieces."""

"""Packs prompts into rows of tokens: the dataset, the plan of an epoch, and the collators."""

"""Probabilities of all legal ratings, metrics and predictions computed from them, and baselines."""

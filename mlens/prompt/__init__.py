"""Ratings and an ablation -> token pieces and the readable text, both from one list of pieces."""

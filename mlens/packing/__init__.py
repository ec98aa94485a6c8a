"""Pieces -> rows of tokens with visible spans: the dataset, the plan of an epoch, and the collators."""

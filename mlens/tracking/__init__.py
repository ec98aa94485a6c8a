"""Experiment trackers: Weights & Biases and others behind one interface."""

"""Inspection of one target: what the model sees and why, as data for programs and as a page for the terminal."""

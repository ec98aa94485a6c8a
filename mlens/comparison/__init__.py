"""Comparison of finished runs from their files: paired statistics and a report."""

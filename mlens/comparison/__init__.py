"""Finished runs' files -> paired statistics, report."""

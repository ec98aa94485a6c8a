"""Helpers shared by test files: runs, small models, tables and tokenizers, and naive references to compare with."""

"""What several test files share: runs, small models, tables and tokenizers, and slow references to compare with."""

"""Visible earlier ratings -> which of them the target sees. One strategy, one file, one YAML in conf/history/."""

"""Scoring of language models with lm-eval: suites, items, gates and ranks. Knows nothing of merging."""

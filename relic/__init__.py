"""RELIC: an open interactive video world model with long-horizon memory (arXiv 2512.04040)."""

"""Triton operators of RELIC, each with its PyTorch reference."""

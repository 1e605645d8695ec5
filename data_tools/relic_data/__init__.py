"""Scenes and captures turned into labelled, encoded training data."""

"""Measurements of a world on this machine; `relic bench` prints them."""

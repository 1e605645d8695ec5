"""Operators for processors in C++, compiled for the machine they run on."""

from relic_kernels.native.library import function, has_tiles, library, why_not, why_not_bytes
from relic_kernels.native.tensors import check, check_cases, may_run, place_of
from relic_kernels.native.weights import PlacedWeights

__all__ = [
    "PlacedWeights",
    "check",
    "check_cases",
    "function",
    "has_tiles",
    "library",
    "may_run",
    "place_of",
    "why_not",
    "why_not_bytes",
]

"""Operators for processors in C++, compiled for the machine they run on."""

from relic_kernels.native.library import check_bytes, function, has_tiles, library, why_not, why_not_bytes
from relic_kernels.native.tensors import check, check_cases, may_run, place_of
from relic_kernels.native.weights import PlacedWeights, matrix_in_bytes, quantised

__all__ = [
    "PlacedWeights",
    "check",
    "check_bytes",
    "check_cases",
    "function",
    "has_tiles",
    "library",
    "matrix_in_bytes",
    "may_run",
    "place_of",
    "quantised",
    "why_not",
    "why_not_bytes",
]

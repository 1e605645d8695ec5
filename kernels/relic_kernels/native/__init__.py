"""Operators for processors in C++, compiled for the machine they run on."""

from relic_kernels.native.library import function, library, why_not
from relic_kernels.native.tensors import check, may_run
from relic_kernels.native.weights import PlacedWeights

__all__ = ["PlacedWeights", "check", "function", "library", "may_run", "why_not"]

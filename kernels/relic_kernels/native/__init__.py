"""Operators for processors in C++, compiled for the machine they run on."""

from relic_kernels.native.library import library, why_not
from relic_kernels.native.tensors import check, may_run

__all__ = ["check", "library", "may_run", "why_not"]

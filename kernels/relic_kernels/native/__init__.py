"""Operators for processors in C++, compiled for the machine they run on."""

from relic_kernels.native.library import NativeLibrary, library, why_not

__all__ = ["NativeLibrary", "library", "why_not"]

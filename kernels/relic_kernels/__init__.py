"""Triton operators of RELIC, each with its PyTorch reference.

Operators are imported from here. Triton itself is imported when an operator first runs on it.
"""

from relic_kernels.dispatch import force
from relic_kernels.memory_attention import Part, Turns, memory_attention
from relic_kernels.memory_commit import memory_commit
from relic_kernels.modulated_norm import gated_residual, modulated_norm
from relic_kernels.qk_norm_rope_pose import qk_norm_rope_pose

__all__ = [
    "Part",
    "Turns",
    "force",
    "gated_residual",
    "memory_attention",
    "memory_commit",
    "modulated_norm",
    "qk_norm_rope_pose",
]

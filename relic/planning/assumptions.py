"""What predictions assume of machines: one set for all networks, GPUs and precisions; see docs/planning.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """What of a device's best is reached.

    Attributes:
        compute: of the matrix rate, reached by a whole network. Wan2.2's A14B draws 81 frames of 1280x720 on eight H100
            with FlashAttention-3 in 250.7 s / 1.57 (Morphic, October 2025): 41 % of the data sheet's rate.
        decode: the same for the video decoder's convolutions of few channels; assumed, no published figure was found.
        bandwidth: of the memory's rate. Coalesced reads on an H100 were measured at 84 % (mikamirai.com, March 2026).
        link: of the link's rate. 370 of 450 GB/s are left by the protocol (NVIDIA/nccl-tests, issue 212).
        operator: seconds that starting an operator takes; assumed, PyTorch without CUDA graphs.
    """

    compute: float = 0.41
    decode: float = 0.10
    bandwidth: float = 0.84
    link: float = 0.82
    operator: float = 10e-6

    def lines(self) -> list[str]:
        """The assumptions in words."""
        return [
            f"a whole network reaches {self.compute:.0%} of the matrix rate (from published timings of Wan on H100)",
            f"the video decoder reaches {self.decode:.0%} of it (assumed)",
            f"memory is read at {self.bandwidth:.0%} of its rate, links carry {self.link:.0%} of theirs (published)",
            f"starting an operator takes {self.operator * 1e6:.0f} us (assumed; no CUDA graphs)",
            "weights and memory are read once a pass; communication and decoding overlap with nothing",
            "FP8 memory saves room, not time: attention is counted in the network's precision",
        ]


ASSUMED = Assumptions()

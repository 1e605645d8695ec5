"""What the machine has left to give."""

from __future__ import annotations

import psutil
import torch


def available_bytes(device: torch.device) -> int:
    """Bytes that can be allocated on a device now: free video memory, or the system's free and reclaimable memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_memory(what: str, needed: int, device: torch.device) -> None:
    """Refuse to load what does not fit.

    Args:
        what: to be loaded, for the message.
        needed: bytes.
        device: to load it on.

    Raises:
        ValueError: when less is available; it names both figures.
    """
    available = available_bytes(device)
    if needed > available:
        raise ValueError(
            f"{what} needs {needed / 1e9:.1f} GB and {device} has {available / 1e9:.1f} GB available: "
            "load it in bfloat16, on a larger machine, or over several devices"
        )

"""The matrix products of a computation, recorded and run again alone: the floor under its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_PRODUCTS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.linear.default,
    _aten.matmul.default,
}
_packed = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
if _packed is not None:  # torch is built without oneDNN for some processors
    _PRODUCTS.add(_packed.default)
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten.scaled_dot_product_attention.default,
}


class MatrixProducts(TorchDispatchMode):
    """Records every matrix product under its `with`, without the activation that a packed one may end with.

    Fused attention counts as its two products.

    Attributes:
        jobs: one call for each product, on the operands that were recorded.
        flops: of all of them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.jobs: list[Callable[[], object]] = []
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record a call and make it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in _PRODUCTS:
            alone = (*args[:3], "none", [], "") if _packed is not None and func is _packed.default else args
            self.jobs.append(lambda: func(*alone, **kwargs))
            inner = args[1 if func in (_aten.addmm.default, _aten.baddbmm.default) else 0].shape[-1]
            self.flops += 2 * inner * out.numel()
        elif func in _ATTENTION:
            q, k, v = args[:3]
            keys = k.transpose(-2, -1)
            weights = torch.empty((*q.shape[:-1], k.shape[-2]), dtype=q.dtype, device=q.device).fill_(1 / k.shape[-2])
            self.jobs += [lambda: torch.matmul(q, keys), lambda: torch.matmul(weights, v)]
            self.flops += 4 * q.numel() * k.shape[-2]
        return out

    def run(self) -> None:
        """All products again, in order."""
        for job in self.jobs:
            job()


def products_of(job: Callable[[], Tensor]) -> MatrixProducts:
    """The products of one call of a job.

    Raises:
        ValueError: when the job has none that is known.
    """
    with MatrixProducts() as products:
        job()
    if not products.jobs:
        raise ValueError("no matrix product was seen: the job calls operators that are not in this module's tables")
    return products

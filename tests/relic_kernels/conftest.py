import pytest
import torch

from relic_kernels.native import why_not


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The formats of the C++ operators; bfloat16 where the processor has instructions for it."""
    why = why_not(request.param)
    if why is not None and "AVX-512" in why:
        pytest.skip(why)
    assert why is None
    return request.param

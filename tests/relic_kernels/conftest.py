"""Kernels run in Triton's interpreter here, which must be chosen before they are first imported."""

import os

os.environ["TRITON_INTERPRET"] = "1"

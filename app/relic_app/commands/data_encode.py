"""`relic data encode`: turn rendered clips into the latents that the world model trains on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic data encode`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data render` wrote")
    parser.add_argument("--vae", type=Path, required=True, help="VAE weights, .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder of latents; the same call goes on in it")
    parser.add_argument("--palindromes", type=int, default=1, help="versions of a clip that turn back in time")
    parser.add_argument("--seed", type=int, default=0, help="seed of where they turn")


def run(options: argparse.Namespace) -> int:
    """Encode, or go on encoding.

    Raises:
        ValueError: a bad number, or a folder that was encoded with another VAE.
        FileNotFoundError: no such data or weights.
    """
    from relic_data.encode import encode_dataset

    encode_dataset(options.data, options.vae, options.out, palindromes=options.palindromes, seed=options.seed)
    return 0

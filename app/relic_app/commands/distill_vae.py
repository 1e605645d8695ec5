"""`relic distill vae`: train the tiny video VAE."""

from __future__ import annotations

import argparse
from pathlib import Path

from relic_app.training_options import add_session_arguments, exit_status, loop_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic distill vae`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `relic data render` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same call goes on in it")
    parser.add_argument("--minutes", type=float, default=45.0, help="training time")
    add_session_arguments(parser)
    parser.add_argument("--batch", type=int, default=4, help="windows a step")
    parser.add_argument("--start-from", type=Path, help="VAE weights to go on from")
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder of --start-from")
    parser.add_argument(
        "--encoder-blocks",
        type=int,
        nargs=2,
        metavar=("QUARTER", "EIGHTH"),
        help="deepen the encoder of --start-from to that many blocks at each resolution",
    )
    parser.add_argument("--edge-weight", type=float, default=0.05, help="weight of the edge error in the loss")
    parser.add_argument("--seed", type=int, default=0, help="seed of windows, noise and first weights")


def run(options: argparse.Namespace) -> int:
    """Train, or go on training; SIGINT and SIGTERM save a checkpoint first.

    Raises:
        ValueError: a bad number, no training clips, or a folder with a run of another configuration.
    """
    from relic_distill.loop import LoopConfig
    from relic_distill.stage_vae import VaeTrainConfig, train_vae

    config = VaeTrainConfig(
        loop=loop_of(LoopConfig(minutes=options.minutes, steps=options.steps), options),
        batch=options.batch,
        start_from=options.start_from,
        decoder_only=options.decoder_only,
        encoder_blocks=options.encoder_blocks and tuple(options.encoder_blocks),
        gradient_weight=options.edge_weight,
        seed=options.seed,
    )
    return exit_status(train_vae(config, options.data, options.out))

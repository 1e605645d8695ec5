import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from relic.checkpoint import load_checkpoint, read_metadata, save_checkpoint, sha256_of
from relic.weights import default_weights_dir

SCRIPT = """
import sys, torch
from pathlib import Path
from relic.checkpoint import save_checkpoint
state = {name: torch.arange(6.0).view(2, 3) for name in sorted({"b", "a", "c"}, key=hash)}
extra = {name: name for name in sorted({"kind", "vae", "recipe", "commit"}, key=hash)}
save_checkpoint(Path(sys.argv[1]), state, {name: 1 for name in sorted({"dim", "heads"}, key=hash)}, extra)
"""


def test_equal_checkpoints_are_equal_files_whichever_process_writes_them(tmp_path: Path) -> None:
    digests = set()
    for seed in ("1", "2", "3"):
        target = tmp_path / f"{seed}.safetensors"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", SCRIPT, str(target)], env=environment, check=True)
        digests.add(sha256_of(target))
    assert len(digests) == 1
    expected = {"config": {"dim": 1, "heads": 1}, **{name: name for name in ("kind", "vae", "recipe", "commit")}}
    assert read_metadata(target) == expected


def test_files_with_a_key_for_each_entry_are_read_as_before(tmp_path: Path) -> None:
    state, config, extra = {"a": torch.ones(2)}, {"dim": 4, "sizes": [1, 2]}, {"kind": "tiny", "vae": "0a1b"}
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    save_file(state, old, {"config": json.dumps(config), **extra})
    save_checkpoint(new, state, config, extra)
    assert read_metadata(old) == read_metadata(new) == {"config": config, **extra}
    for path in (old, new):
        tensors, values = load_checkpoint(path)
        assert torch.equal(tensors["a"], state["a"])
        assert values == config
    save_file(state, old, {"format": "pt"})
    with pytest.raises(ValueError, match=r"old\.safetensors carries no configuration"):
        read_metadata(old)


def test_shipped_weights_tell_their_sizes() -> None:
    told = read_metadata(default_weights_dir() / "mini-vae.safetensors")
    assert told["kind"] == "tiny_vae"
    assert told["config"]["latent_channels"] == 16


def test_a_checkpoint_is_mapped_and_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    """So each process of a sharded run that goes on holds its share of the tensors and no whole one."""
    path, size = tmp_path / "large.safetensors", 64 * 2**20
    save_checkpoint(path, {f"layer{i}": torch.full((size // 64,), float(i)) for i in range(16)}, {})
    before = psutil.Process().memory_info().rss
    tensors, _ = load_checkpoint(path)
    mapped = psutil.Process().memory_info().rss
    halves = [tensors[f"layer{i}"].chunk(2)[1].clone() for i in range(2)]
    assert [float(half.mean()) for half in halves] == [0.0, 1.0]
    assert mapped - before < size / 4
    assert psutil.Process().memory_info().rss - before < size / 2

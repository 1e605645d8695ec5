"""The C++ is compiled for the processor at hand, once, by whatever compiler there is; without one, it is said why."""

import ctypes
import importlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from relic_kernels.native import has_tiles, library, why_not
from tests.relic_kernels.closeness import assert_close
from tests.relic_kernels.control_problems import CASES as CONTROL
from tests.relic_kernels.control_problems import Problem as ControlProblem
from tests.relic_kernels.frame_problems import CASES, IN_BYTES, TOLERANCE, TOLERANCE_IN_BYTES, Problem
from tests.relic_kernels.picture_problems import CASES as PICTURES
from tests.relic_kernels.picture_problems import IN_BYTES as PICTURES_IN_BYTES
from tests.relic_kernels.picture_problems import TOLERANCE as PICTURE_TOLERANCE
from tests.relic_kernels.picture_problems import TOLERANCE_IN_BYTES as PICTURE_TOLERANCE_IN_BYTES
from tests.relic_kernels.picture_problems import of_all_steps, of_blocks
from tests.relic_kernels.test_memory_frames import check_written, frame_of

pytestmark = pytest.mark.native

module = importlib.import_module("relic_kernels.native.library")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "relic"


def compiler_that(tmp_path: Path, does: str) -> Path:
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("options", [("-march=x86-64-v3",), ("-march=x86-64-v2",)], ids=["AVX2", "SSE"])
@pytest.mark.parametrize("parallel", [True, False], ids=["OpenMP", "one thread"])
def test_other_processors_and_no_threads_compute_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], parallel: bool
) -> None:
    monkeypatch.setattr(module, "_for_this_processor", lambda: (*options, "-DRELIC_EMULATED_BYTES"))
    if not parallel:
        monkeypatch.setattr(module, "_openmp", lambda compiler: ())
    built = module._library.__wrapped__()
    assert isinstance(built, ctypes.CDLL)
    assert not built.relic_has_bfloat16()
    monkeypatch.setattr(module, "library", lambda: built)
    check_operators(torch.float32, monkeypatch)


def check_operators(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library that is in use computes, with three threads, beside the references in float64."""
    for name in ("mini", "odd sizes", "long memory, whose ends are ragged"):
        problem = Problem(CASES[name], dtype)
        assert_close("velocity", problem.run(threads=3), problem.exact, TOLERANCE[dtype])
    for name in IN_BYTES:
        problem = Problem(CASES[name], dtype, in_bytes=True)
        assert_close("velocity", problem.run(threads=3), problem.exact, TOLERANCE_IN_BYTES[dtype])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    pictures = [of_blocks(case, dtype) for case in PICTURES.values()]
    in_bytes = [of_blocks(PICTURES[name], dtype, in_bytes=True) for name in PICTURES_IN_BYTES]
    for picture in [*pictures, of_all_steps(dtype)]:
        assert_close("pictures", picture.run()[0], picture.exactly()[0], PICTURE_TOLERANCE[dtype])
    for picture in [*in_bytes, of_all_steps(dtype, in_bytes=True)]:
        assert_close("pictures", picture.run()[0], picture.exactly()[0], PICTURE_TOLERANCE_IN_BYTES[dtype])
    for control in (ControlProblem(case, dtype) for case in CONTROL.values()):
        control.check(control.run(threads=3))
    for sizes in ((8, 1, 60, 5, 64), (2, 2, 7, 3, 20), (7, 1, 1000, 2, 64)):
        check_written(frame_of(sizes, dtype), begin=2, room=sizes[2] + 3, threads=3)


@pytest.mark.parametrize("macro", ["RELIC_EMULATED_TILES", "RELIC_NO_TILES"])
def test_bfloat16_is_computed_with_tiles_and_without(
    macro: str, cache: Path, monkeypatch: pytest.MonkeyPatch, require: Callable[..., None]
) -> None:
    require("bfloat16")
    monkeypatch.setattr(module, "_OPTIONS", (*module._OPTIONS, f"-D{macro}"))
    built = module._library.__wrapped__()
    assert isinstance(built, ctypes.CDLL)
    assert built.relic_has_tiles() == (macro == "RELIC_EMULATED_TILES")
    monkeypatch.setattr(module, "library", lambda: built)
    check_operators(torch.bfloat16, monkeypatch)


def test_torch_finds_the_tile_registers_as_it_left_them(require: Callable[..., None]) -> None:
    require("bfloat16")
    torch.manual_seed(0)
    problem = Problem(CASES["mini"], torch.bfloat16)
    x, weight = torch.randn(2, 200, 320).bfloat16(), torch.randn(333, 320).bfloat16()
    before, alone = torch.nn.functional.linear(x, weight), problem.run(2)
    for _ in range(3):
        assert torch.equal(problem.run(2), alone)
        assert torch.equal(torch.nn.functional.linear(x, weight), before)


def test_a_library_is_compiled_once_and_anew_for_other_options(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(module._library.__wrapped__(), ctypes.CDLL)
    (first,) = cache.iterdir()
    made = first.stat().st_mtime_ns
    module._library.__wrapped__()
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [made]
    monkeypatch.setattr(module, "_OPTIONS", (*module._OPTIONS, "-DANOTHER"))
    module._library.__wrapped__()
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(module, "_processor", lambda: b"another processor")
    module._library.__wrapped__()
    assert len(list(cache.iterdir())) == 3


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = compiler_that(
        tmp_path, '[ "$1" = --version ] && exit 0; echo "x.cpp:1: error: no such thing" >&2; exit 1'
    )
    monkeypatch.setenv("CXX", str(failing))
    said = module._library.__wrapped__()
    assert "x.cpp:1: error: no such thing" in said
    assert "install g++" in said
    assert list(cache.iterdir()) == []


def test_threads_are_shared_with_torch_and_not_had_twice(tmp_path: Path) -> None:
    clang = compiler_that(tmp_path, "echo Debian clang version 14.0.6")
    assert module._openmp(str(clang)) == ()
    gnu = compiler_that(tmp_path, "echo g++ 12.2.0")
    first, _, *runtimes = module._openmp(str(gnu))
    assert first == "-fopenmp"
    assert all(Path(runtime).parent == Path(torch.__file__).parent / "lib" for runtime in runtimes)


def test_a_library_that_does_not_load_is_no_crash(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes_nonsense = compiler_that(
        tmp_path, '[ "$1" = --version ] && exit 0; for last; do :; done; echo nonsense > "$last"'
    )
    monkeypatch.setenv("CXX", str(writes_nonsense))
    assert "could not compile them" in module._library.__wrapped__()


def test_without_a_compiler_or_turned_off_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert module._library.__wrapped__() == "no C++ compiler was found: install g++, or name one in CXX"
    monkeypatch.setenv("RELIC_NATIVE", "0")
    assert why_not(torch.float32) == "RELIC_NATIVE=0 turns them off"
    assert not has_tiles()
    with pytest.raises(ValueError, match="RELIC_NATIVE=0"):
        library()
    assert why_not(torch.float16) == "they compute in float32 and bfloat16, not in torch.float16"


def test_a_home_that_cannot_be_written_to_is_gone_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(module.tempfile, "tempdir", None)
    folder = module._cache_folder()
    assert folder.is_dir()
    assert folder.parent == tmp_path
    assert os.access(folder, os.W_OK)

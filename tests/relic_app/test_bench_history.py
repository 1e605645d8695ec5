import pytest

from relic_app.cli import main


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("bfloat16", 2)])
def test_a_presets_network_is_timed_without_weights(
    precision: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench", "history", "--preset", "mini", "--device", "cpu", "--seconds", "0.5", "--repeats", "1"]
    assert main([*argv, "--precision", precision, "--memory", "full", "compressed-fp8"]) == 0
    head, _, full, narrow = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| memory | storage | history | block | tokens | MB |")
    assert full.startswith("| full | float | 0.5 s |")
    assert narrow.startswith("| compressed | fp8 | 0.5 s |")
    bytes_of_two_frames = 2 * 60 * 8 * 320 * 2 * width
    assert f"| 120 | {bytes_of_two_frames / 1e6:.1f} |" in full


def test_what_cannot_be_timed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "history", "--preset", "wan-2b"]) == 2
    assert "unknown preset 'wan-2b': choose one of mini, wan-1.3b, wan-14b" in capsys.readouterr().err
    assert main(["bench", "history", "--device", "cuda"]) == 2
    assert "--device cuda without --preset" in capsys.readouterr().err
    assert main(["bench", "history", "--preset", "mini", "--device", "cuda:97"]) == 2
    assert "there is no device 'cuda:97' here" in capsys.readouterr().err

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from relic_distill.curves import draw_comparison, draw_curves, smoothed


def test_a_falling_loss_is_drawn_falling(tmp_path: Path) -> None:
    lines = [{"step": 0, "seconds": 0, "event": "start"}]
    lines += [{"step": step, "seconds": step, "loss": 2.0 - step / 100, "grad_norm": 1.0} for step in range(1, 101)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape == (480, 640, 3)
    blue = (picture[:240].astype(int) @ [1, 0, -1]) > 100
    heights = [int(np.flatnonzero(blue[:, column]).mean()) for column in range(90, 600, 100)]
    assert heights == sorted(heights)
    assert heights[-1] - heights[0] > 100


def test_nothing_is_drawn_of_a_run_without_figures(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 0, "seconds": 0, "event": "start"}) + "\n")
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_each_of_four_measurements_has_a_colour_and_a_fifth_is_refused(tmp_path: Path) -> None:
    lines = {str(height): [(0.0, height), (10.0, height)] for height in (1.0, 2.0, 3.0, 4.0)}
    draw_comparison(lines, "four", "s", tmp_path / "four.png")
    picture = cv2.imread(str(tmp_path / "four.png")).astype(int)
    column = picture[30:, 400]
    drawn = {tuple(pixel) for pixel in column if pixel.max() - pixel.min() > 60 or pixel.max() < 60}
    assert len(drawn) == 4
    with pytest.raises(ValueError, match="5 measurements in one picture: draw at most 4"):
        draw_comparison({**lines, "five": [(0.0, 5.0)]}, "five", "s", tmp_path / "five.png")
    assert not (tmp_path / "five.png").exists()


def test_smoothing_keeps_constants_and_damps_noise() -> None:
    np.testing.assert_allclose(smoothed(np.full(50, 3.0)), 3.0)
    noise = np.random.default_rng(0).normal(size=400)
    assert smoothed(noise)[100:].std() < 0.4

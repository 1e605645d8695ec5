import argparse
import json
import socket

import pytest
from PIL import Image

from relic_app.cli import main
from relic_app.commands import data_render, distill_status, distill_vae, doctor, play


def parse(module, *argv):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(argv)


@pytest.fixture
def gallery(tmp_path):
    folder = tmp_path / "gallery"
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    (folder / "gallery.json").write_text(json.dumps([{"file": "a.png", "title": "A", "prompt": ""}]))
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--threads", "0"], "--threads is 0"),
        (["--sessions", "0"], "--sessions is 0"),
        (["--weights", "nowhere"], "no manifest.json in nowhere"),
    ],
)
def test_play_refuses_bad_options(argv, message, capsys):
    assert main(["play", *argv]) == 2
    assert message in capsys.readouterr().err


def test_play_refuses_a_taken_port(monkeypatch, capsys):
    monkeypatch.setattr("relic.weights.read_manifest", lambda *_args, **_options: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["play", "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_play_serves_the_page_and_says_where(gallery, monkeypatch, capsys):
    served = {}
    monkeypatch.setattr("relic.weights.read_manifest", lambda *_args, **_options: None)
    monkeypatch.setattr(play, "_serve", lambda app, listener: served.update(app=app, listener=listener))
    assert main(["play", "--weights", str(gallery), "--port", "0"]) == 0
    port = served["listener"].getsockname()[1]
    served["listener"].close()
    assert f"http://127.0.0.1:{port}/" in capsys.readouterr().out
    assert {"/ws", "/api/gallery", "/api/upload"} <= {getattr(route, "path", "") for route in served["app"].routes}


def test_doctor_finds_what_is_missing_and_says_what_to_do(tmp_path, capsys):
    assert main(["doctor", "--weights", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "ok    Python" in shown
    assert "FAIL  weights: no manifest.json" in shown
    assert "-> fetch weights/ whole" in shown
    assert "to mend" in shown


def test_doctor_is_content_when_every_check_is(monkeypatch, gallery, capsys):
    from relic.weights import Manifest

    manifest = Manifest(world="w", vae="v", sha256={}, provenance={})
    monkeypatch.setattr("relic.weights.read_manifest", lambda *_args, **_options: manifest)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1}, raising=False)
    assert doctor.run(parse(doctor, "--weights", str(gallery))) == 0
    shown = capsys.readouterr().out
    assert "everything is fine" in shown
    assert "1 start pictures" in shown


def test_status_tells_step_loss_and_time_left(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        {"step": 0, "seconds": 0.0, "event": "planned", "total": 500},
        {"step": 20, "seconds": 600.0, "loss": 0.5, "eta_s": 9000},
        {"step": 40, "seconds": 7500.0, "loss": 0.125, "eta_s": 1800},
    ]
    (run / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 60, "sec')
    assert main(["distill", "status", str(run)]) == 0
    assert (
        capsys.readouterr().out.strip() == f"{run}: step 40 of 500, loss 0.125, 2 h 05 min trained, about 30 min left"
    )


def test_status_of_no_run_is_a_users_mistake(tmp_path, capsys):
    assert main(["distill", "status", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_status_of_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    assert distill_status.describe(tmp_path) == "no step yet"


def test_render_passes_its_options_on(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("relic_data.render.render_dataset", lambda *args, **options: seen.update(options, args=args))
    options = parse(data_render, "--scenes", "3", "--seed", "5", "--out", str(tmp_path), "--first-scene", "20")
    assert data_render.run(options) == 0
    assert seen == {"args": (tmp_path, 3, 5.0, 5, 1), "clips_per_scene": 1, "first_scene": 20, "split": None}


@pytest.mark.parametrize(("ending", "status"), [("finished", 0), ("interrupted", 130)])
def test_vae_training_passes_its_options_on(monkeypatch, tmp_path, ending, status):
    seen = []
    monkeypatch.setattr("relic_distill.stage_vae.train_vae", lambda *args: (seen.append(args), ending)[1])
    options = parse(distill_vae, "--data", "d", "--out", str(tmp_path), "--steps", "7", "--batch", "2")
    assert distill_vae.run(options) == status
    config, _, out = seen[0]
    assert (config.loop.steps, config.batch, out) == (7, 2, tmp_path)


def test_a_bad_training_length_is_one_line(capsys):
    assert main(["distill", "vae", "--data", "d", "--out", "o", "--minutes", "-4"]) == 2
    assert "minutes -4.0" in capsys.readouterr().err

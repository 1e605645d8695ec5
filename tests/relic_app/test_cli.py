import os
import subprocess
import sys

import pytest

from relic.failures import DamagedFileError, WorkFailedError
from relic_app import cli
from relic_app.commands import COMMANDS, Command

HEAVY = ("torch", "gradio", "diffusers", "transformers", "fastapi", "cv2", "PIL", "uvicorn")


def leaves(commands: tuple[Command, ...], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Command]]:
    found = []
    for command in commands:
        here = (*path, command.name)
        found += leaves(command.children, here) if command.children else [(here, command)]
    return found


def test_importing_the_command_line_and_every_command_imports_nothing_heavy():
    modules = ["relic_app.cli", *(command.module for _, command in leaves(COMMANDS))]
    code = f"import sys, {', '.join(modules)}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_python_m_relic_app_prints_help_with_every_command():
    done = subprocess.run([sys.executable, "-m", "relic_app", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in COMMANDS:
        assert command.name in done.stdout
        assert command.summary in " ".join(done.stdout.split())


@pytest.mark.parametrize("argv", [[], ["walk"], ["rollout"], ["play", "--port", "many"]])
def test_wrong_usage_exits_with_2_and_says_why(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "command"), leaves(COMMANDS), ids=lambda value: str(value)[:30])
def test_every_command_has_help_for_each_option(path, command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*path, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert command.summary in " ".join(shown.split())
    parser = cli.build_parser([*path])
    assert parser.prog == "relic"
    import argparse

    probe = argparse.ArgumentParser()
    command.load().add_arguments(probe)
    assert all(action.help for action in probe._actions)


@pytest.fixture
def failing(monkeypatch):
    def install(error):
        class Module:
            @staticmethod
            def add_arguments(parser):
                del parser

            @staticmethod
            def run(options):
                raise error

        monkeypatch.setattr(Command, "load", lambda _self: Module)

    return install


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("--seed is -1:\ngive more"), "relic: --seed is -1: give more"),
        (FileNotFoundError("no manifest here"), "relic: no manifest here"),
        (FileNotFoundError(2, "No such file or directory", "x.jpg"), "relic: No such file or directory: x.jpg"),
        (ValueError(), "relic: ValueError"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(failing, capsys, error, line):
    failing(error)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (WorkFailedError("step 3 is\nlost"), "relic: step 3 is lost"),
        (DamagedFileError("x is torn"), "relic: x is torn"),
        (OSError(28, "No space left on device"), "relic: No space left on device: make room and run again"),
        (OSError(27, "File too large", "log"), "relic: File too large: log: make room and run again"),
    ],
)
def test_work_that_fails_is_one_line_and_exit_1(failing, capsys, error, line):
    failing(error)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == line + "\n"


def test_relic_debug_shows_the_traceback(failing, monkeypatch):
    failing(ValueError("bad"))
    monkeypatch.setitem(os.environ, "RELIC_DEBUG", "1")
    with pytest.raises(ValueError, match="bad"):
        cli.main(["doctor"])


def test_a_bug_is_not_hidden(failing):
    failing(KeyError("a bug"))
    with pytest.raises(KeyError):
        cli.main(["doctor"])


def test_interrupting_exits_with_130(failing, capsys):
    failing(KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err

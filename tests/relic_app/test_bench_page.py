import pytest

from relic_app.cli import main


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--seconds", "0"), "seconds 0.0 must be positive"), (("--steps", "0"), "steps 0 must be at least 1")],
)
def test_a_walk_of_nothing_is_refused(
    options: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "page", *options]) == 2
    assert message in capsys.readouterr().err

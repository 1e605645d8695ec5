import socket

import pytest

from relic_app.server import bind


def test_a_taken_port_is_named():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} .*choose another --port"):
            bind("127.0.0.1", port)


def test_without_a_wish_the_next_free_port_is_taken(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        probe.listen()
        monkeypatch.setattr("relic_app.server.DEFAULT_PORT", probe.getsockname()[1])
        with bind("127.0.0.1", None) as found:
            assert found.getsockname()[1] > probe.getsockname()[1]

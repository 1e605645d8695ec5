import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import relic_app
from relic.actions import ACTION_NAMES, KEY_BINDINGS
from relic_app.protocol import (
    MAX_PROMPT,
    PROTOCOL_VERSION,
    Ack,
    Analog,
    Hello,
    Keys,
    Pause,
    ProtocolError,
    Record,
    Restart,
    SetPrompt,
    SetSpeeds,
    Start,
    check_version,
    parse_client_message,
)
from relic_app.replies import (
    FRAME_HEADER_BYTES,
    Busy,
    Error,
    FrameHeader,
    Ready,
    Recording,
    Started,
    Stats,
    World,
    decode_frame,
    encode,
    encode_frame,
)

STATIC = Path(relic_app.__file__).parent / "static"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"type": "hello", "version": 3}, Hello(version=3)),
        (
            {"type": "start", "picture": "room-1", "prompt": " a\n room ", "seed": 7},
            Start(source="gallery", picture="room-1", prompt="a room", seed=7),
        ),
        (
            {"type": "start", "upload": "aB_9", "prompt": "", "seed": 0},
            Start(source="upload", picture="aB_9", prompt="", seed=0),
        ),
        ({"type": "keys", "codes": ["KeyW", "KeyD"], "seq": 4}, Keys(codes=("KeyW", "KeyD"), seq=4)),
        ({"type": "analog", "magnitudes": [0.5] + [0] * 12, "seq": 5}, Analog(magnitudes=(0.5, *[0.0] * 12), seq=5)),
        ({"type": "speeds", "move": 1, "turn": 30.5}, SetSpeeds(move=1.0, turn=30.5)),
        ({"type": "prompt", "text": "rain"}, SetPrompt(text="rain")),
        ({"type": "pause", "on": True}, Pause(on=True)),
        ({"type": "restart"}, Restart()),
        ({"type": "record", "on": False}, Record(on=False)),
        ({"type": "ack", "run": 1, "frame": 9}, Ack(run=1, frame=9)),
        ({"type": "ack", "run": 1, "frame": 9, "slack_ms": -12.5}, Ack(run=1, frame=9, slack_ms=-12.5)),
    ],
)
def test_every_message_is_read(message, expected):
    assert parse_client_message(json.dumps(message)) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no JSON"),
        ("[" * 5000, "no JSON"),
        ("[]", "'type'"),
        ('{"type": 4}', "'type'"),
        ('{"type": "fly"}', "'fly': one of hello"),
        ('{"type": "pause"}', "pause has no 'on'"),
        ('{"type": "pause", "on": 1}', "pause.on is 1: give true or false"),
        ('{"type": "restart", "hard": true}', "unknown fields: hard"),
        ('{"type": "hello", "version": true}', "hello.version is True"),
        ('{"type": "hello", "version": -1}', "hello.version is -1"),
        ('{"type": "speeds", "move": NaN, "turn": 1}', "speeds.move is nan"),
        ('{"type": "speeds", "move": 1, "turn": 999}', "speeds.turn is 999: give a number from 0 to 180"),
        ('{"type": "start", "prompt": "", "seed": 0}', "either 'picture'"),
        ('{"type": "start", "picture": "a", "upload": "b", "prompt": "", "seed": 0}', "not both"),
        ('{"type": "start", "picture": "../x", "prompt": "", "seed": 0}', "start.picture is '../x'"),
        ('{"type": "start", "picture": "a", "prompt": "", "seed": 1.5}', "start.seed is 1.5"),
        ('{"type": "keys", "codes": "KeyW", "seq": 0}', "keys.codes is 'KeyW'"),
        ('{"type": "keys", "codes": [4], "seq": 0}', "keys.codes is 4"),
        ('{"type": "analog", "magnitudes": [1], "seq": 0}', "a list of 13 numbers"),
        (json.dumps({"type": "analog", "magnitudes": [0] * 12 + [1.5], "seq": 0}), "magnitudes[12] is 1.5"),
        (json.dumps({"type": "prompt", "text": "x" * (MAX_PROMPT + 1)}), f"at most {MAX_PROMPT} characters"),
        (json.dumps({"type": "prompt", "text": "x" * 20_000}), "too long"),
    ],
)
def test_a_bad_message_is_refused_by_name(text, named):
    with pytest.raises(ProtocolError, match=re.escape(named)):
        parse_client_message(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
)
kinds = ("hello", "start", "keys", "analog", "speeds", "prompt", "pause", "restart", "record", "ack")
fields = ("version", "picture", "upload", "prompt", "seed", "codes", "seq", "magnitudes", "move", "turn", "text", "on")


@given(st.sampled_from(kinds), st.dictionaries(st.sampled_from(fields), json_values, max_size=4))
def test_no_json_object_does_worse_than_a_protocol_error(kind, content):
    with contextlib.suppress(ProtocolError):
        parse_client_message(json.dumps({"type": kind, **content}))


def test_versions_must_match():
    check_version(Hello(version=PROTOCOL_VERSION))
    with pytest.raises(ProtocolError, match="reload the page"):
        check_version(Hello(version=PROTOCOL_VERSION + 1))


@pytest.mark.parametrize(
    "message",
    [
        Ready(version=1, limit=2),
        World(state="awake", message="m", fraction=1.0, fps=16.0, width=160, height=96),
        Started(run=1, prompt="p", seed=0),
        Busy(limit=2, message="full"),
        Error(code="engine", message="m"),
        Stats(memory_tokens=1, memory_bytes=2, seconds_remembered=0.5, blocks=1, block_ms=9.5, margin_ms=20.0),
        Recording(state="saved", seconds=1.0, video="v", poses="p"),
    ],
)
def test_replies_are_json_with_their_kind(message):
    content = json.loads(encode(message))
    assert content.pop("type") == message.kind
    assert content == {name: getattr(message, name) for name in message.__dataclass_fields__ if name != "kind"}


def test_a_reply_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="JSON"):
        encode(World(state="waking", message="", fraction=float("nan"), fps=0.0, width=0, height=0))


def header(**changes):
    values = {
        "first_of_block": True,
        "run": 3,
        "frame": 70_000,
        "block": 17_500,
        "seq": 12,
        "period_us": 62_500,
        "position": (0.5, -1.0, 2.0),
        "forward": (0.0, 0.0, 1.0),
    }
    return FrameHeader(**values | changes)


@pytest.mark.parametrize("first", [True, False])
def test_frames_come_back(first):
    data = encode_frame(header(first_of_block=first), b"jpeg bytes")
    assert decode_frame(data) == (header(first_of_block=first), b"jpeg bytes")
    assert len(data) == FRAME_HEADER_BYTES + 10


@pytest.mark.parametrize("data", [b"", b"RF\x01", b"XX" + bytes(60), b"RF\x63" + bytes(60)])
def test_what_is_no_frame_is_refused(data):
    with pytest.raises(ProtocolError):
        decode_frame(data)


def test_the_page_speaks_the_same_protocol():
    script = (STATIC / "protocol.js").read_text(encoding="utf-8")
    assert f"PROTOCOL_VERSION = {PROTOCOL_VERSION};" in script
    assert f"FRAME_HEADER_BYTES = {FRAME_HEADER_BYTES};" in script
    names = re.search(r"ACTION_NAMES = \[(.*?)\]", script, re.DOTALL).group(1)
    assert tuple(re.findall(r'"(\w+)"', names)) == ACTION_NAMES
    codes = re.search(r"STEERING_CODES = new Set\(\[(.*?)\]", script, re.DOTALL).group(1)
    assert set(re.findall(r'"(\w+)"', codes)) == set(KEY_BINDINGS)


def test_the_legend_shows_every_key_once():
    markup = (STATIC / "page.html").read_text(encoding="utf-8")
    assert sorted(re.findall(r'data-code="(\w+)"', markup)) == sorted(KEY_BINDINGS)
    assert set(re.findall(r'data-hold="(\w+)"', markup)) <= set(KEY_BINDINGS)


def test_the_page_asks_no_other_server_for_anything():
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(\s*[\"']?//", text), path.name

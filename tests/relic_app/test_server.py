import contextlib
import io
import json
import time

import imageio.v3 as iio
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from relic.actions import ACTION_INDEX
from relic.camera import CameraPath
from relic.world import World
from relic_app.connection import Services
from relic_app.gallery import Gallery
from relic_app.page import TITLE, mount_page
from relic_app.protocol import PROTOCOL_VERSION
from relic_app.replies import decode_frame
from relic_app.server import create_api
from relic_app.sessions import SessionManager, WorldHost
from relic_app.uploads import MAX_BYTES, UploadStore
from relic_app.worker import Worker

PATIENCE = 30


@pytest.fixture(scope="module")
def world() -> World:
    return World.tiny(seed=0)


@pytest.fixture
def services(world, tmp_path):
    folder = tmp_path / "gallery"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "room.png")
    entry = {"file": "room.png", "title": "A room", "prompt": "a room with a window"}
    (folder / "gallery.json").write_text(json.dumps([entry]))
    (tmp_path / "recordings").mkdir()
    return Services(
        manager=SessionManager(WorldHost(Worker(), lambda _report: world), limit=1),
        gallery=Gallery.load(tmp_path),
        uploads=UploadStore(),
        recordings=tmp_path / "recordings",
    )


@pytest.fixture
def app(services) -> FastAPI:
    return create_api(services)


@pytest.fixture
def client(app):
    with TestClient(app) as client:
        yield client


class Page:
    """The page's half of the protocol, without a browser: acknowledges every frame when told to."""

    def __init__(self, socket):
        self.socket = socket
        self.frames = []
        self.messages = []

    def send(self, kind, **fields):
        self.socket.send_text(json.dumps({"type": kind, **fields}))

    def receive(self, ack=True):
        message = self.socket.receive()
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message.get("code", 1000))
        if message.get("bytes") is not None:
            header, jpeg = decode_frame(message["bytes"])
            self.frames.append((header, jpeg))
            if ack:
                self.send("ack", run=header.run, frame=header.frame)
            return header
        content = json.loads(message["text"])
        self.messages.append(content)
        return content

    def until(self, kind, **wanted):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            got = self.receive()
            if isinstance(got, dict) and got["type"] == kind and wanted.items() <= got.items():
                return got
        raise AssertionError(f"no {kind} came; last messages {self.messages[-5:]}")

    def until_frame(self, frame, run):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            got = self.receive()
            if not isinstance(got, dict) and (got.run, got.frame) >= (run, frame):
                return got
        raise AssertionError("the frames stopped")

    def start(self, seed=0, **picture):
        self.send("start", prompt="a room", seed=seed, **(picture or {"picture": "room"}))
        return self.until("started")


@contextlib.contextmanager
def opened(client, greet=True):
    with client.websocket_connect("/ws") as socket:
        page = Page(socket)
        if greet:
            page.send("hello", version=PROTOCOL_VERSION)
            page.until("ready")
            page.until("world", state="awake")
        yield page


def test_a_page_walks(client):
    with opened(client) as page:
        started = page.start(seed=3)
        assert (started["run"], started["prompt"], started["seed"]) == (1, "a room", 3)
        page.send("speeds", move=1.6, turn=90)
        page.send("keys", codes=["KeyW"], seq=1)
        page.until_frame(24, run=1)
        stats = page.until("stats")
        headers = [header for header, _ in page.frames]
        first_of_four = [True, False, False, False]
        assert [header.frame for header in headers] == list(range(len(headers)))
        assert [header.first_of_block for header in headers[:9]] == [True, *first_of_four, *first_of_four]
        assert headers[0].block == 0
        assert headers[-1].seq == 1
        assert headers[-1].period_us == 62_500
        assert headers[0].position == (0, 0, 0)
        assert headers[-1].position[2] > headers[-5].position[2] + 0.39 > 0
        assert headers[-1].forward == pytest.approx((0, 0, 1))
        assert stats["memory_tokens"] > 0
        assert stats["memory_bytes"] > 0
        assert stats["seconds_remembered"] > 0
        picture = Image.open(io.BytesIO(page.frames[-1][1]))
        assert picture.size == (160, 96)


def test_the_same_seed_and_keys_give_the_same_frames_again(client):
    with opened(client) as page:
        page.start()
        page.until_frame(12, run=1)
        page.send("restart")
        assert page.until("started")["run"] == 2
        page.until_frame(12, run=2)
        runs = {
            run: [jpeg for header, jpeg in page.frames if header.run == run and header.frame <= 12] for run in (1, 2)
        }
        assert runs[1] == runs[2]


def test_without_acknowledgements_at_most_two_blocks_are_made(client):
    with opened(client) as page:
        page.send("start", picture="room", prompt="", seed=0)
        deadline = time.monotonic() + PATIENCE
        while len(page.frames) < 5 and time.monotonic() < deadline:
            page.receive(ack=False)
        page.send("pause", on=False)
        page.send("prompt", text="x")
        page.send("nonsense")
        while page.messages[-1]["type"] != "error":
            page.receive(ack=False)
        assert len(page.frames) <= 9


def test_pausing_holds_the_world_and_going_on_continues(client):
    with opened(client) as page:
        page.start()
        page.until_frame(8, run=1)
        page.send("pause", on=True)
        page.send("nonsense")
        page.until("error")
        seen = len(page.frames)
        page.send("nonsense")
        page.until("error")
        assert len(page.frames) <= seen + 8
        page.send("pause", on=False)
        page.until_frame(seen + 12, run=1)


def test_analog_input_turns_the_view(client):
    with opened(client) as page:
        page.start()
        gains = [0.0] * 13
        gains[ACTION_INDEX["pan_right"]] = 0.5
        page.send("analog", magnitudes=gains, seq=9)
        page.until_frame(16, run=1)
        last = page.frames[-1][0]
        assert last.seq == 9
        assert last.forward[0] > 0.05


def test_a_prompt_is_changed_while_walking(client):
    with opened(client) as page:
        page.start()
        page.send("prompt", text="a forest")
        page.until_frame(12, run=1)
        assert not [message for message in page.messages if message["type"] == "error"]


def test_a_recording_is_saved_and_downloaded(client):
    with opened(client) as page:
        page.start()
        page.send("record", on=True)
        page.until("recording", state="on")
        shown = page.frames[-1][0].frame
        page.until_frame(shown + 16, run=1)
        page.send("record", on=False)
        saved = page.until("recording", state="saved")
    video = client.get(saved["video"])
    assert video.status_code == 200
    frames = iio.imread(video.content, extension=".mp4")
    assert frames.shape[1:] == (384, 640, 3)
    assert len(frames) >= 16
    assert len(frames) / 16 == pytest.approx(saved["seconds"])
    poses = client.get(saved["poses"])
    assert len(CameraPath.from_mapping(poses.json(), "poses")) == len(frames)


def test_a_recording_of_nothing_says_so(client):
    with opened(client) as page:
        page.start()
        page.send("pause", on=True)
        page.send("nonsense")
        page.until("error", code="protocol")
        for _ in range(3):
            page.send("record", on=True)
            page.send("record", on=False)
        while True:
            message = page.until("error", code="recording")
            if "nothing was shown" in message["message"]:
                break


def test_a_second_page_is_told_that_the_world_is_full_until_the_first_leaves(client, services):
    with opened(client) as second:
        with opened(client) as first:
            first.start()
            second.send("start", picture="room", prompt="", seed=0)
            busy = second.until("busy")
            assert busy["limit"] == 1
            assert "taken" in busy["message"]
        deadline = time.monotonic() + PATIENCE
        while services.manager.active and time.monotonic() < deadline:
            time.sleep(0.01)
        assert services.manager.active == 0
        second.start()
        assert services.manager.active == 1


def test_a_page_of_another_version_is_turned_away(client):
    with opened(client, greet=False) as page:
        page.send("hello", version=PROTOCOL_VERSION + 1)
        assert "reload the page" in page.until("error", code="protocol")["message"]
        with pytest.raises(WebSocketDisconnect) as closed:
            page.receive()
        assert closed.value.code == 4000


def test_a_page_that_does_not_greet_is_turned_away(client):
    with opened(client, greet=False) as page:
        page.send("restart")
        assert "hello" in page.until("error", code="protocol")["message"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "start", "picture": "nowhere", "prompt": "", "seed": 0}, "no picture 'nowhere'"),
        ({"type": "start", "upload": "gone", "prompt": "", "seed": 0}, "upload the picture again"),
        ({"type": "keys", "codes": [1], "seq": 0}, "keys.codes is 1"),
        ({"type": "hello", "version": PROTOCOL_VERSION}, "said already"),
    ],
)
def test_a_bad_message_is_answered_and_the_talk_goes_on(client, message, said):
    with opened(client) as page:
        page.socket.send_text(json.dumps(message))
        assert said in page.until("error")["message"]
        page.start()


def test_a_frame_that_was_never_sent_cannot_be_acknowledged(client):
    with opened(client) as page:
        page.start()
        page.send("ack", run=1, frame=5000)
        assert "frame 5000" in page.until("error", code="protocol")["message"]
        page.send("ack", run=77, frame=5000)
        page.until_frame(8, run=1)


def test_an_engine_that_fails_is_told_and_its_place_is_freed(client, services, monkeypatch, caplog):
    from relic.engine import WorldEngine

    with opened(client) as page:
        page.start()
        with monkeypatch.context() as patch:
            patch.setattr(WorldEngine, "begin_step", lambda *_args: 1 / 0)
            error = page.until("error", code="engine")
        assert "division by zero" in error["message"]
        assert "a session stopped" in caplog.text
        page.start()
        page.until_frame(5, run=2)


def test_pages_of_other_sites_may_not_connect_or_upload(client):
    other = {"origin": "http://evil.example"}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=other):
        pass
    assert client.post("/api/upload", content=b"x", headers=other).status_code == 403


def test_the_gallery_is_listed_and_shown(client):
    listed = client.get("/api/gallery").json()
    assert listed == [{"id": "room", "title": "A room", "prompt": "a room with a window", "picture": "gallery/room"}]
    assert client.get("/gallery/room").headers["content-type"] == "image/png"
    assert client.get("/gallery/other").status_code == 404


def test_an_uploaded_picture_is_walked_into(client):
    buffer = io.BytesIO()
    Image.new("RGB", (300, 100), "teal").save(buffer, "PNG")
    answer = client.post("/api/upload?name=sea.png", content=buffer.getvalue())
    assert answer.status_code == 200
    preview = client.get(answer.json()["picture"])
    assert Image.open(io.BytesIO(preview.content)).size == (320, 192)
    with opened(client) as page:
        page.start(upload=answer.json()["id"])
        page.until_frame(4, run=1)


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"hello, I am a text", 400, "notes.txt is not a picture"),
        (b"", 400, "notes.txt is empty"),
        (bytes(MAX_BYTES + 1), 413, "notes.txt is larger than 20 MB"),
    ],
)
def test_a_bad_upload_gets_a_clear_message(client, data, status, said):
    answer = client.post("/api/upload?name=notes.txt", content=data)
    assert answer.status_code == status
    assert said in answer.json()["error"]


@pytest.mark.parametrize("name", ["nothing.mp4", "..%2Fgallery%2Froom.png", ".hidden"])
def test_only_recordings_are_downloaded(client, name):
    assert client.get(f"/recordings/{name}").status_code == 404
    assert client.get("/uploads/nothing").status_code == 404


def test_the_page_is_served_with_its_files(app):
    with TestClient(mount_page(app)) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert TITLE in page.text
        for name in ("client.js", "style.css", "controls.css", "icon.svg"):
            assert f"ui/{name}" in page.text
            assert client.get(f"/ui/{name}").headers["cache-control"] == "no-cache"
        assert client.get("/api/gallery").json()[0]["id"] == "room"


def test_the_server_answers_while_the_world_sleeps(services):
    import threading

    release = threading.Event()
    host = services.manager.host
    real = host._load
    host._load = lambda report: (release.wait(PATIENCE), real(report))[1]
    with TestClient(create_api(services)) as client, client.websocket_connect("/ws") as socket:
        page = Page(socket)
        page.send("hello", version=PROTOCOL_VERSION)
        assert page.until("world")["state"] == "waking"
        assert client.get("/api/gallery").status_code == 200
        page.send("start", picture="room", prompt="", seed=0)
        assert page.until("world")["state"] == "waking"
        release.set()
        page.until("world", state="awake")
        page.start()

"""A real Chromium walks through the page that `relic play` serves, as a person would.

Where the shipped weights are present they are played, and the picture must move as the key says; elsewhere a tiny
world of random weights takes their place, and everything but the look of the picture is checked.
"""

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from relic.weights import MANIFEST, default_weights_dir
from relic.world import World
from relic_app.page_benchmark import CHROMIUM_FLAGS, served_page

pytestmark = pytest.mark.browser

PATIENCE_MS = 60_000
SHIPPED = (default_weights_dir() / MANIFEST).is_file()
AWAKE = "() => window.relic?.report().world === 'awake'"


def make_tiny_weights(folder: Path) -> Path:
    """A random world and twelve start pictures, in the form of the shipped ones."""
    world = World.tiny(seed=0)
    world.save(folder)
    gallery = folder / "gallery"
    gallery.mkdir()
    rng = np.random.default_rng(0)
    entries = []
    for index in range(12):
        coarse = rng.integers(0, 255, (6, 10, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((160, 96), Image.Resampling.BICUBIC).save(gallery / f"p{index}.jpg")
        entries.append({"file": f"p{index}.jpg", "title": f"Picture {index}", "prompt": f"place {index}"})
    (gallery / "gallery.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """The address of a `relic play` that runs in a process of its own."""
    weights = default_weights_dir() if SHIPPED else make_tiny_weights(tmp_path_factory.mktemp("weights"))
    with served_page(weights) as address:
        yield address


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, url):
    pages = []

    def open_one(**options) -> Page:
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}} | options)
        page.set_default_timeout(PATIENCE_MS)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: check_local(request.url, page.errors))
        page.goto(url)
        page.wait_for_function(AWAKE)
        pages.append(page)
        return page

    yield open_one
    for page in pages:
        assert page.errors == []
        page.close()


def check_local(address: str, errors: list[str]) -> None:
    if not address.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
        errors.append(f"the page asked for {address}")


def report(page: Page) -> dict:
    return page.evaluate("() => window.relic.report()")


def start(page: Page, index: int = 0) -> None:
    run = report(page)["run"]
    page.get_by_role("button", name=re.compile("^Walk into ")).nth(index).click()
    page.wait_for_function("(run) => window.relic.report().run > run && window.relic.report().frames > 4", arg=run)


def wait_for_frames(page: Page, more: int) -> None:
    goal = report(page)["frames"] + more
    page.wait_for_function("(goal) => window.relic.report().frames >= goal", arg=goal)


def look(page: Page) -> np.ndarray:
    """The canvas's pixels, (384, 640, 3) uint8."""
    data = page.evaluate("() => document.getElementById('canvas').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGB"))


def zoom_between(before: np.ndarray, after: np.ndarray) -> float:
    """The factor by which `before`, enlarged about its centre, looks most like the middle of `after`."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (before, after)]
    height, width = grey[0].shape
    middle = (slice(height // 4, -height // 4), slice(width // 4, -width // 4))

    def likeness(factor: float) -> float:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, factor)
        scaled = cv2.warpAffine(grey[0], matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        return float(np.corrcoef(scaled[middle].ravel(), grey[1][middle].ravel())[0, 1])

    factors = np.linspace(0.7, 1.5, 81)
    return float(factors[np.argmax([likeness(factor) for factor in factors])])


def test_zoom_is_measured():
    coarse = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((640, 384), Image.Resampling.BICUBIC))
    for factor in (0.8, 1.0, 1.2):
        matrix = cv2.getRotationMatrix2D((320, 192), 0, factor)
        assert zoom_between(picture, cv2.warpAffine(picture, matrix, (640, 384))) == pytest.approx(factor, abs=0.011)


def test_the_gallery_has_at_least_twelve_pictures_and_every_control_has_a_name(open_page):
    page = open_page()
    tiles = page.get_by_role("button", name=re.compile("^Walk into "))
    expect(tiles.nth(11)).to_be_attached()
    for name in ("Pause", "Restart", "Record", "Look with the mouse", "Full screen", "Upload a picture"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()
    for name in ("What is this place?", "Walking speed", "Turning speed", "Seed"):
        expect(page.get_by_label(name, exact=True)).to_be_visible()
    expect(page.locator("#status")).to_contain_text("the world is awake")


def test_holding_w_walks_forward_and_letting_go_stops(open_page):
    page = open_page()
    start(page)
    wait_for_frames(page, 4)
    before, seen = look(page), report(page)
    page.keyboard.down("KeyW")
    expect(page.locator("[data-code=KeyW]")).to_have_class(re.compile("lit"))
    page.wait_for_function("() => window.relic.report().position[1] > 0.5")
    after, walked = look(page), report(page)
    page.keyboard.up("KeyW")
    expect(page.locator("[data-code=KeyW]")).not_to_have_class(re.compile("lit"))
    assert np.abs(after.astype(int) - before).mean() > 1.0
    assert walked["position"][1] > seen["position"][1] + 0.4
    assert walked["position"][0] == pytest.approx(0, abs=1e-6)
    if SHIPPED:
        assert zoom_between(before, after) > 1.05
    wait_for_frames(page, 12)
    stopped = report(page)
    wait_for_frames(page, 8)
    assert report(page)["position"] == stopped["position"]


def test_keys_change_and_mix(open_page):
    page = open_page()
    start(page, 1)
    for key in ("KeyD", "ArrowRight"):
        page.keyboard.down(key)
    page.wait_for_function("() => window.relic.report().forward[0] > 0.2 && window.relic.report().position[0] > 0.05")
    page.keyboard.up("KeyD")
    page.keyboard.up("ArrowRight")
    page.keyboard.down("ArrowLeft")
    turned = report(page)["forward"][0]
    page.wait_for_function("(turned) => window.relic.report().forward[0] < turned - 0.1", arg=turned)
    page.keyboard.up("ArrowLeft")


def test_leaving_the_window_lets_go_of_every_key(open_page):
    page = open_page()
    start(page)
    page.keyboard.down("KeyW")
    page.keyboard.down("KeyD")
    expect(page.locator("kbd.lit")).to_have_count(2)
    page.evaluate("() => window.dispatchEvent(new Event('blur'))")
    expect(page.locator("kbd.lit")).to_have_count(0)


def test_typing_a_prompt_does_not_steer(open_page):
    page = open_page()
    start(page)
    page.get_by_label("What is this place?").fill("")
    page.get_by_label("What is this place?").press_sequentially("wasd qe")
    wait_for_frames(page, 8)
    assert report(page)["position"] == [0, 0]
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("the prompt is applied")
    assert page.evaluate("() => document.activeElement.id") == "canvas"


def test_frames_and_latency_are_measured_and_shown(open_page):
    page = open_page()
    start(page)
    for _ in range(4):
        page.keyboard.down("ArrowLeft")
        wait_for_frames(page, 5)
        page.keyboard.up("ArrowLeft")
        wait_for_frames(page, 3)
    seen = report(page)
    assert 0 < seen["fps"] < 17.5
    assert len(seen["latencies"]) >= 3
    assert min(seen["latencies"]) > 0
    expect(page.locator("#hud-fps")).to_have_text(re.compile(r"^\d+(\.\d)?$"))
    expect(page.locator("#hud-latency")).to_have_text(re.compile(r"^\d+$"))
    expect(page.locator("#mem-tokens")).to_have_text(re.compile(r"^[\d,]+$"))
    expect(page.locator("#mem-size")).to_have_text(re.compile(r"^\d+\.\d$"))


def test_pausing_holds_the_picture_and_restarting_begins_again(open_page):
    page = open_page()
    start(page)
    page.get_by_role("button", name="Pause", exact=True).click()
    held, picture = report(page)["frames"], look(page)
    time.sleep(0.6)
    assert report(page)["frames"] == held
    np.testing.assert_array_equal(look(page), picture)
    page.get_by_role("button", name="Resume", exact=True).click()
    wait_for_frames(page, 8)
    run = report(page)["run"]
    page.get_by_role("button", name="Restart", exact=True).click()
    page.wait_for_function("(run) => window.relic.report().run > run && window.relic.report().frames > 2", arg=run)


def test_a_recording_downloads_and_plays(open_page, tmp_path):
    page = open_page()
    start(page)
    page.keyboard.down("ArrowLeft")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("#rec")).to_be_visible()
    wait_for_frames(page, 16)
    with page.expect_download() as download:
        page.get_by_role("button", name="Stop recording").click()
    page.keyboard.up("ArrowLeft")
    download.value.save_as(tmp_path / "walk.mp4")
    frames = iio.imread(tmp_path / "walk.mp4")
    assert frames.shape[1:] == (384, 640, 3)
    assert len(frames) >= 12
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 0
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the poses").click()
    download.value.save_as(tmp_path / "walk.json")
    assert len(json.loads((tmp_path / "walk.json").read_text())["positions"]) == len(frames)


def test_an_upload_is_walked_into_and_a_bad_one_is_explained(open_page):
    page = open_page()
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"only text"})
    expect(page.get_by_role("alert")).to_contain_text("notes.txt is not a picture")
    buffer = io.BytesIO()
    Image.new("RGB", (400, 300), (20, 90, 160)).save(buffer, "PNG")
    page.set_input_files("#file", {"name": "sea.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    page.wait_for_function("() => window.relic.report().playing && window.relic.report().frames > 4")
    expect(page.get_by_role("button", name="Walk into sea")).to_have_attribute("aria-pressed", "true")


def test_a_third_tab_waits_until_one_is_closed(open_page, browser, url):
    first, second, third = open_page(), open_page(), open_page()
    start(first)
    start(second)
    third.get_by_role("button", name=re.compile("^Walk into ")).first.click()
    expect(third.get_by_text("The world is full")).to_be_visible()
    expect(third.locator("#status")).to_contain_text("places in this world are taken")
    second.goto("about:blank")
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not report(third)["playing"] and time.monotonic() < deadline:
        third.get_by_role("button", name="Try again").click(force=True, timeout=2000)
        time.sleep(0.3)
    assert report(third)["playing"]


DROP = """(base64) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
  const event = (kind) => new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer });
  document.body.dispatchEvent(event("dragenter"));
  window.sawDropSign = getComputedStyle(document.querySelector(".drop")).display !== "none";
  document.body.dispatchEvent(event("drop"));
}"""
PASTE = """(base64) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, clipboardData }));
}"""


@pytest.mark.parametrize(("act", "name"), [(DROP, "dropped"), (PASTE, "pasted")], ids=["drop", "paste"])
def test_a_picture_may_be_dropped_or_pasted(open_page, act, name):
    page = open_page()
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (160, 90, 20)).save(buffer, "PNG")
    page.evaluate(act, base64.b64encode(buffer.getvalue()).decode())
    page.wait_for_function("() => window.relic.report().frames > 4")
    expect(page.get_by_role("button", name=f"Walk into {name}")).to_have_attribute("aria-pressed", "true")
    assert act is PASTE or page.evaluate("() => window.sawDropSign")


def test_a_gamepad_steers_in_proportion(open_page):
    page = open_page()
    start(page)
    page.evaluate("""() => {
      const buttons = Array.from({ length: 17 }, () => ({ value: 0 }));
      navigator.getGamepads = () => [null, { mapping: "standard", axes: [0, -1, 0.575, 0], buttons }];
    }""")
    page.wait_for_function("() => window.relic.report().forward[0] > 0.1")
    seen = report(page)
    assert seen["position"][1] > 0.05


def test_the_mouse_looks_around_once_it_is_locked(open_page):
    page = open_page()
    start(page)
    page.locator("#canvas").click()
    page.wait_for_function("() => document.pointerLockElement?.id === 'canvas'")
    box = page.locator("#canvas").bounding_box()
    for step in range(12):
        page.mouse.move(box["x"] + box["width"] / 2 + 20 * step, box["y"] + box["height"] / 2)
    page.wait_for_function("() => window.relic.report().forward[0] > 0.1")
    page.get_by_role("button", name="Look with the mouse").evaluate("(button) => button.click()")
    page.wait_for_function("() => document.pointerLockElement === null")


def test_fingers_get_two_sticks(open_page):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = open_page(**phone)
    page.get_by_role("button", name=re.compile("^Walk into ")).first.tap()
    page.wait_for_function("() => window.relic.report().frames > 4")
    pad = page.locator("#pad-move")
    expect(pad).to_be_visible()
    expect(page.locator("#legend")).to_be_hidden()
    push = """(pad) => {
      const box = pad.getBoundingClientRect();
      const at = { bubbles: true, pointerId: 1, pointerType: "touch", clientX: box.x + box.width / 2 };
      pad.setPointerCapture = () => {};
      pad.dispatchEvent(new PointerEvent("pointerdown", { ...at, clientY: box.y + 4 }));
    }"""
    pad.evaluate(push)
    page.wait_for_function("() => window.relic.report().position[1] > 0.1")
    pad.evaluate("(pad) => pad.dispatchEvent(new PointerEvent('pointerup', { bubbles: true, pointerId: 1 }))")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


PAINT_BY_A_CLOCK_OF_OUR_OWN = """async ([count, stall, slow]) => {
  const { Screen } = await import("/ui/screen.js");
  let clock = 1000;
  const callbacks = [];
  performance.now = () => clock;
  window.requestAnimationFrame = (call) => callbacks.push({ call, at: clock });
  window.setTimeout = (call, ms) => callbacks.push({ call, at: clock + ms });
  const canvas = Object.assign(document.createElement("canvas"), { width: 32, height: 20 });
  const picture = new OffscreenCanvas(16, 10);
  picture.getContext("2d").fillRect(0, 0, 4, 4);
  const blob = await picture.convertToBlob({ type: "image/jpeg" });
  const painted = [];
  const screen = new Screen(canvas, canvas.cloneNode(), (frame, now) => painted.push(now));
  for (let index = 0; index < count; index += 1) {
    const periodMs = slow && index >= slow ? 80 : 62.5;
    await screen.push({ run: 0, jpeg: blob, periodMs, firstOfBlock: false });
  }
  while (painted.length < count) {
    clock += 4;
    if (painted.length === stall && clock < 1000 + 62.5 * stall + 200) continue;
    callbacks.splice(0).forEach((one) => (one.at <= clock ? one.call(clock) : callbacks.push(one)));
  }
  return painted;
}"""


def test_time_lost_to_a_late_frame_is_made_up(open_page):
    page = open_page()
    painted = np.array(page.evaluate(PAINT_BY_A_CLOCK_OF_OUR_OWN, [120, 40, 0]))
    behind = painted - painted[0] - 62.5 * np.arange(120)
    assert np.abs(behind[:40]).max() < 17
    assert behind[41] > 100
    assert np.abs(behind[-10:]).max() < 17
    assert np.diff(painted).min() > 0.8 * 62.5


def test_a_machine_that_cannot_keep_up_is_not_hurried(open_page):
    page = open_page()
    painted = np.array(page.evaluate(PAINT_BY_A_CLOCK_OF_OUR_OWN, [120, 40, 42]))
    assert abs(np.diff(painted)[60:].mean() - 80) < 1

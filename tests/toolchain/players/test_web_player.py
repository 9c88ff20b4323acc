"""The page in a real browser: play is `teco upscale`, seeks, bad input, keyboard, offline.

Chromium without a window: WebAssembly at 160x96, WebGPU by its software adapter at 32x32.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import carried_over
import numpy as np
import pytest
from accessibility import findings, looks
from browser import chromium, resize
from web_page import enlarge, open_page, serve, settle, site_folder, wait_for

from teco.model.opening import open_model
from teco.players.web.server import Server
from teco_calibration.degrade import degrade_bd
from teco_models import zoo

pytestmark = [pytest.mark.slow, pytest.mark.fetched]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_web) -> Path:
    """A site with the shipped model and a tiny one with a flow net, back-projection and -lk."""
    models = [open_model(str(zoo.Entry("live").web)), open_model(str(tiny_web))]
    return site_folder(tmp_path_factory.mktemp("site") / "page", models)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serve(folder) as running:
        yield running


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """A browser without a GPU."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def offline(tmp_path_factory, run_teco, make_pictures, load_pictures) -> Callable[..., list]:
    """What `teco upscale` makes of frames with ONNX Runtime."""

    def made(frames: list[np.ndarray], model: Path) -> list[np.ndarray]:
        place = tmp_path_factory.mktemp("offline")
        source = make_pictures(place / "frames", frames)
        run_teco(
            "upscale", source, place / "out", "--model", model, "--runtime", "onnxruntime"
        ).says()
        return load_pictures(place / "out")

    return made


def apart(found: list[np.ndarray], expected: list[np.ndarray]) -> int:
    """Largest difference in 8-bit steps."""
    assert [x.shape for x in found] == [x.shape for x in expected]
    return max(
        int(np.abs(a.astype(np.int16) - b).max()) for a, b in zip(found, expected, strict=True)
    )


def models_of(folder: Path) -> dict[str, Path]:
    listed = json.loads((folder / "site.json").read_text())["models"]
    return {x["name"]: folder / x["file"] for x in listed}


@pytest.mark.parametrize("name", ["live", "tiny"])
def test_webassembly_plays_what_upscale_makes(page, server, folder, texture, offline, name) -> None:
    # Two shots, so that the detector has something to find.
    frames = [*texture(5, 160, 96), *texture(4, 160, 96, seed=7)]
    open_page(page, server, model=name)
    found = [enlarge(page, frame) for frame in frames]
    expected = offline(frames, models_of(folder)[name])
    assert apart([x.picture for x in found], expected) <= 1
    assert [x.reason for x in found] == ["first", *[""] * 4, "cut", *[""] * 3]
    assert page.execute_script("return crossOriginIsolated")


@pytest.mark.parametrize("name", ["live", "tiny"])
def test_webgpu_plays_what_upscale_makes(server, folder, texture, offline, name) -> None:
    frames = texture(5, 32, 32)
    with chromium(webgpu=True) as page:
        open_page(page, server, model=name, backend="webgpu")
        assert "WebGPU" in page.find_element("id", "details").text
        found = [enlarge(page, frame).picture for frame in frames]
        # Another size is another session, on the same device.
        other = enlarge(page, frames[0][:24])
    assert apart(found, offline(frames, models_of(folder)[name])) <= 1
    assert other.reason == "first"
    assert apart([other.picture], offline([frames[0][:24]], models_of(folder)[name])) <= 1


@pytest.mark.parametrize("name", ["live", "tiny"])
def test_every_node_runs_on_webgpu(server, folder, name) -> None:
    script = """
    const [file, finish] = [arguments[0], arguments[arguments.length - 1]];
    const lines = [];
    for (const kind of ["log", "info", "warn", "error", "debug"]) {
      console[kind] = (...words) => lines.push(words.join(" "));
    }
    (async () => {
      const { readManifest, dimensions } = await import("./contract.js");
      const beside = file.replace(".onnx", ".json");
      const manifest = readManifest(await (await fetch(beside)).text(), beside);
      const ort = await import("./ort/ort.webgpu.bundle.min.mjs");
      const wasm = new URL("ort/ort-wasm-simd-threaded.asyncify.wasm", document.baseURI).href;
      ort.env.wasm.wasmPaths = { wasm };
      ort.env.logLevel = "verbose";
      const bytes = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());
      const externalData = [];
      for (const path of Object.keys(manifest.data_sha256)) {
        const beside = new URL(path, new URL(file, document.baseURI));
        externalData.push({ path, data: await bytes(beside) });
      }
      await ort.InferenceSession.create(await bytes(file), {
        executionProviders: ["webgpu"], logSeverityLevel: 0, externalData,
        freeDimensionOverrides: dimensions(manifest.contract, 24, 40),
      });
      finish(lines.filter((line) => /placed on|ExecutionProvider\\]/.test(line)));
    })().catch((error) => finish([String(error)]));
    """
    with chromium(webgpu=True) as page:
        page.get(server.url)
        file = str(models_of(folder)[name].relative_to(folder))
        lines = page.execute_async_script(script, file)
    placed = [line for line in lines if "placed on" in line]
    assert len(placed) == 1, lines
    assert "All nodes placed on [WebGpuExecutionProvider]" in placed[0]


def test_axe_finds_nothing(server, make_clip, tmp_path, texture) -> None:
    """On the empty page, while a clip is shown, and where a file could not be played."""
    clip = make_clip(
        tmp_path / "clip.webm", pixels=texture(12, 160, 96), codec="libvpx-vp9", crf="10"
    )
    broken = tmp_path / "broken.webm"
    broken.write_bytes(b"no video")
    with chromium() as page:
        for look in looks(page, server.url):
            wait_for(page, "return teco.ready")
            assert findings(page) == [], look
            page.find_element("id", "file").send_keys(str(clip))
            wait_for(page, "return teco.stats.shown > 2")
            assert findings(page) == [], look
            page.find_element("id", "file").send_keys(str(broken))
            wait_for(page, "return document.getElementById('alert').textContent")
            assert findings(page) == [], look


def test_the_video_itself_plays(page, server, make_clip, tmp_path, texture) -> None:
    """Through the video element, whose colours are its own: close to the frames, all in order."""
    frames = texture(50, 160, 96)
    clip = make_clip(tmp_path / "clip.webm", pixels=frames, codec="libvpx-vp9", crf="10")
    open_page(page, server)
    page.find_element("id", "file").send_keys(str(clip))
    wait_for(page, "return teco.stats.shown > 2")
    stats = page.execute_script("return teco.stats")
    assert (stats["width"], stats["height"]) == (640, 384)
    wait_for(page, "return document.getElementById('video').ended")
    wait_for(page, "return document.getElementById('dropped').textContent !== '–'")
    shown, dropped = page.execute_script("return [teco.stats.shown, teco.stats.dropped]")
    # Whatever this machine manages: each frame is shown or counted, but for the browser's own.
    assert 40 <= shown + dropped <= 55, (shown, dropped)
    # The two canvases hold one and the same frame, of the clip's own colours.
    settle(page)
    before, after = (picture_of(page, f"{place}-place") for place in ("before", "after"))
    assert before.shape == (96, 160, 3)
    assert after.shape == (384, 640, 3)
    with av.open(str(clip)) as container:
        coded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    nearest = min(float(np.abs(before.astype(np.int16) - f).mean()) for f in coded)
    assert nearest < 4
    apart_at_lr = np.abs(degrade_bd(after).astype(np.int16) - before)
    assert float(apart_at_lr.mean()) < 6


def picture_of(page: Any, place: str) -> np.ndarray:
    """What a canvas shows."""
    data = page.execute_async_script(
        """
        const [place, finish] = arguments;
        const canvas = document.querySelector(`#${place} canvas`);
        createImageBitmap(canvas).then((bitmap) => {
          const copy = new OffscreenCanvas(bitmap.width, bitmap.height);
          const context = copy.getContext("2d");
          context.drawImage(bitmap, 0, 0);
          const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
          let text = "";
          for (const value of data) text += String.fromCharCode(value);
          finish([bitmap.height, bitmap.width, btoa(text)]);
        });
        """,
        place,
    )
    h, w, text = data
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(h, w, 4)[..., :3]


def test_seek_storm(page, server, make_clip, tmp_path, texture) -> None:
    """200 random seeks while it plays; then the picture is that of a cold start."""
    clip = make_clip(
        tmp_path / "clip.webm", pixels=texture(75, 64, 40), codec="libvpx-vp9", crf="10"
    )
    open_page(page, server)
    page.find_element("id", "file").send_keys(str(clip))
    wait_for(page, "return teco.stats.shown > 0")
    page.execute_async_script(
        """
        const finish = arguments[0], video = document.getElementById("video");
        video.loop = true;
        let left = 200, seed = 1;
        const next = () => {
          if (!left--) return finish();
          seed = (seed * 16807) % 2147483647;
          video.currentTime = (seed / 2147483647) * 2.9;
          setTimeout(next, 12);
        };
        next();
        """
    )
    page.execute_script("document.getElementById('video').pause()")
    shown = page.execute_script("return teco.stats.shown")
    page.execute_script("document.getElementById('video').currentTime = 1.4")
    wait_for(page, f"return teco.stats.shown > {shown}")
    settle(page)
    assert page.find_element("id", "alert").text == ""
    stats = page.execute_script("return teco.stats")
    assert stats["scenes"] > 1
    assert stats["reason"] in ("seek", "first")
    # What is shown equals a first frame: the same pixels, enlarged with no past.
    before = picture_of(page, "before-place")
    after = picture_of(page, "after-place")
    page.execute_script("document.getElementById('video').removeAttribute('src')")
    again = enlarge(page, before, jump=True)
    assert again.reason == "seek"
    assert apart([after], [again.picture]) == 0


def test_too_small_a_video_is_told(page, server, make_clip, tmp_path, texture) -> None:
    clip = make_clip(tmp_path / "tiny.webm", pixels=texture(5, 32, 6), codec="libvpx-vp9", crf="10")
    open_page(page, server)
    page.find_element("id", "file").send_keys(str(clip))
    wait_for(page, "return document.getElementById('alert').textContent")
    said = page.find_element("id", "alert").text
    assert "32×6, too small for this model, which takes 8×8 or more" in said


def test_what_is_no_video_is_told(page, server, tmp_path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    open_page(page, server)
    page.find_element("id", "file").send_keys(str(tmp_path / "notes.mp4"))
    wait_for(page, "return document.getElementById('alert').textContent")
    assert "cannot play notes.mp4" in page.find_element("id", "alert").text


SHOWN = """
return [...document.querySelectorAll("button")].filter((b) => b.offsetParent).map((b) => b.id);
"""
"""The buttons that can be pressed."""


def test_the_sample_is_one_press_away(page, server) -> None:
    open_page(page, server)
    page.find_element("id", "sample").click()
    wait_for(page, "return teco.stats.shown > 1")
    assert page.execute_script("return [teco.stats.width, teco.stats.height]") == [1280, 720]
    assert not page.find_element("id", "drop").is_displayed()


def test_clips_of_no_use_lead_back_to_the_beginning(
    page, server, make_clip, make_pictures, tmp_path, texture
) -> None:
    """One after the other in one page, which is never loaded again."""
    broken = tmp_path / "notes.mp4"
    broken.write_text("no video")
    sound = make_clip(tmp_path / "sound.mp4", audio=True, picture=False)
    small = make_clip(tmp_path / "s.webm", pixels=texture(5, 32, 6), codec="libvpx-vp9")
    still = make_pictures(tmp_path / "stills", texture(1)) / "0000.png"
    open_page(page, server)
    page.find_element("id", "sample").click()  # so that a clip is on show that must go
    wait_for(page, "return teco.stats.shown > 0")
    for clip, words in (
        (broken, "cannot play notes.mp4"),
        (sound, "sound.mp4 has no picture"),
        (small, "too small"),
        (still, "0000.png is a still picture"),
    ):
        page.find_element("id", "file").send_keys(str(clip))
        wait_for(page, "return document.getElementById('alert').textContent")
        assert words in page.find_element("id", "alert").text
        assert {"choose", "sample"} <= set(page.execute_script(SHOWN))
        assert not page.find_element("id", "frames").is_displayed(), "the clip before"
        assert not page.find_element("id", "play").is_enabled()
    page.find_element("id", "sample").click()
    wait_for(page, "return teco.stats.shown > 0")
    assert page.find_element("id", "alert").text == ""


def test_a_network_that_fails_is_tried_again(page, folder, tmp_path) -> None:
    """What was missing is put back; a graphics card that is not there leads to the processor."""
    copy = tmp_path / "page"
    shutil.copytree(folder, copy, copy_function=_link)
    away = tmp_path / "away"
    with serve(copy) as server:
        for name in ("site.json", "models/live-web.onnx"):
            (copy / name).rename(away)
            page.get(server.url)
            wait_for(page, "return document.getElementById('alert').textContent")
            assert {"again", "choose", "sample"} <= set(page.execute_script(SHOWN))
            away.rename(copy / name)
            page.find_element("id", "again").click()
            wait_for(page, "return teco.ready")
        page.find_element("id", "sample").click()
        wait_for(page, "return teco.stats.shown > 0")
        page.execute_script(
            "const s = document.getElementById('backend'); s.value = 'webgpu';"
            "s.dispatchEvent(new Event('change'))"
        )
        wait_for(page, "return document.getElementById('alert').textContent")
        ways = {"again", "processor", "other", "sample-instead"}
        assert ways <= set(page.execute_script(SHOWN))
        page.find_element("id", "processor").click()
        wait_for(page, "return teco.ready && teco.stats.shown > 0")
        assert not ways & set(page.execute_script(SHOWN))


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (400, 800)])
def test_what_is_lost_is_seen_without_scrolling(page, server, tmp_path, width, height) -> None:
    clip = carried_over.fill(tmp_path / "full.webm", carried_over.ROUTES[3])
    open_page(page, server)
    page.execute_script("teco.lines = 24")
    page.find_element("id", "file").send_keys(str(clip))
    wait_for(page, "return document.getElementById('lost').children.length > 2")
    resize(page, width, height)
    settle(page)
    said = page.find_element("id", "lost").text
    bottom = page.execute_script(
        "scrollTo(0, 0); return document.getElementById('lost').getBoundingClientRect().bottom"
    )
    resize(page, 1280)
    for words in ("×48 to ", "subtitles are not shown", "One of 2 tracks of sound"):
        assert words in said
    assert bottom <= height


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _other_contract(path: Path) -> None:
    data = json.loads(path.read_text())
    data["contract"]["dtype"] = "uint8"
    path.write_text(json.dumps(data))


def _truncated_with_its_hash(path: Path) -> None:
    """Damaged before its manifest was made: only ONNX Runtime can tell."""
    from teco.core.files import sha256_of

    path.write_bytes(path.read_bytes()[:2000])
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"sha256": sha256_of(path)}))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("models/live-web.onnx", _flipped, "live-web.onnx is damaged: its sha256 is"),
        ("models/live.safetensors", _flipped, "live.safetensors is damaged"),
        ("models/live-web.onnx", Path.unlink, "live-web.onnx could not be fetched"),
        ("models/live-web.onnx", _truncated_with_its_hash, "cannot load the model"),
        ("models/live-web.json", _other_contract, 'dtype is "uint8"'),
        ("ort/ort.wasm.bundle.min.mjs", Path.unlink, "onnxruntime-web could not be loaded"),
    ],
)
def test_a_damaged_folder_is_told(
    page, folder, tmp_path, file, damage, words, make_clip, texture
) -> None:
    copy = tmp_path / "page"
    shutil.copytree(folder, copy, copy_function=_link)
    (copy / file).unlink()
    shutil.copyfile(folder / file, copy / file)
    if damage is _truncated_with_its_hash:
        (copy / "models/live-web.json").unlink()
        shutil.copyfile(folder / "models/live-web.json", copy / "models/live-web.json")
    damage(copy / file)
    clip = make_clip(tmp_path / "c.webm", pixels=texture(5, 32, 24), codec="libvpx-vp9", crf="10")
    with serve(copy) as server:
        page.get(server.url)
        page.find_element("id", "file").send_keys(str(clip))
        wait_for(page, "return document.getElementById('alert').textContent")
    assert words in page.find_element("id", "alert").text
    assert page.find_element("id", "status").text == "Stopped"


def _link(source: str, target: str) -> None:
    """Hard links: 40 MB need not be copied six times."""
    Path(target).hardlink_to(source)


def test_works_offline_once_loaded(server, folder, texture) -> None:
    """After one visit the server may be gone."""
    frame = texture(1, 32, 24)[0]
    with chromium() as page:
        with serve(folder) as server:
            open_page(page, server)
            expected = enlarge(page, frame).picture
        open_page(page, server)
        assert apart([enlarge(page, frame).picture], [expected]) == 0
        # What was never used is not at hand, and the page says so.
        page.execute_script(
            "const s = document.getElementById('model'); s.value = 'tiny';"
            "s.dispatchEvent(new Event('change'))"
        )
        wait_for(page, "return document.getElementById('alert').textContent")
        assert "offline, only what was used before" in page.find_element("id", "alert").text.lower()


def test_nothing_is_sent_elsewhere(page, server, make_clip, tmp_path, texture) -> None:
    """Every request goes to the page's own server, and the policy forbids others."""
    clip = make_clip(tmp_path / "c.webm", pixels=texture(10, 32, 24), codec="libvpx-vp9", crf="10")
    open_page(page, server)
    page.find_element("id", "file").send_keys(str(clip))
    wait_for(page, "return teco.stats.shown > 0")
    asked = page.execute_script(
        "return performance.getEntriesByType('resource').map((x) => x.name)"
    )
    assert asked
    assert all(x.startswith((server.url, f"blob:{server.url.rstrip('/')}")) for x in asked), asked
    with serve(tmp_path, index=True) as other:
        refused = page.execute_async_script(
            "fetch(arguments[0]).then(() => arguments[1](false), () => arguments[1](true))",
            other.url,
        )
    assert refused


def test_everything_is_reached_by_keyboard(page, server, make_clip, tmp_path, texture) -> None:
    from selenium.webdriver import ActionChains, Keys

    clip = make_clip(tmp_path / "c.webm", pixels=texture(75, 32, 24), codec="libvpx-vp9", crf="10")
    open_page(page, server)
    page.find_element("id", "file").send_keys(str(clip))
    wait_for(page, "return teco.stats.shown > 0 && !document.getElementById('video').paused")

    def press(*keys: str) -> None:
        ActionChains(page).send_keys(*keys).perform()

    def focused() -> str:
        return page.execute_script(
            "const e = document.activeElement; return e.id || e.value || e.textContent"
        )

    assert focused() == "play"
    press(Keys.SPACE)
    assert page.execute_script("return document.getElementById('video').paused")
    assert page.find_element("id", "play").get_attribute("aria-label") == "Play"
    divider = page.find_element("id", "divider")
    page.execute_script("arguments[0].focus()", divider)
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.PAGE_UP)
    assert divider.get_attribute("aria-valuenow") == "64"
    assert page.execute_script("return document.getElementById('video').currentTime") < 3
    press(Keys.HOME)
    assert divider.get_attribute("aria-valuenow") == "0"
    page.execute_script("document.getElementById('more').open = true")
    reached = []
    for _ in range(18):
        press(Keys.TAB)
        reached.append(focused())
    wanted = [
        "play", "seek", "mute", "another", "model", "split", "every", "loop", "backend", "lines",
        "cuts",
    ]  # fmt: skip
    assert [x for x in reached if x in wanted] == wanted, reached
    # Every control that is on show has a name for those who do not see it.
    nameless = page.execute_script(
        """
        return [...document.querySelectorAll("button, input, select, [role=slider]")]
          .filter((e) => e.offsetParent && !e.ariaLabel && !e.labels?.length)
          .filter((e) => !e.textContent.trim())
          .map((e) => e.outerHTML);
        """
    )
    assert nameless == []


def test_divider_is_dragged(page, server, make_clip, tmp_path, texture) -> None:
    from selenium.webdriver import ActionChains

    resize(page, 1280)
    clip = make_clip(tmp_path / "c.webm", pixels=texture(10, 64, 36), codec="libvpx-vp9", crf="10")
    open_page(page, server)
    page.find_element("id", "file").send_keys(str(clip))
    wait_for(page, "return teco.stats.shown > 0")
    divider = page.find_element("id", "divider")
    width = page.find_element("id", "frames").size["width"]
    ActionChains(page).drag_and_drop_by_offset(divider, round(-0.25 * width), 0).perform()
    assert abs(int(divider.get_attribute("aria-valuenow")) - 25) <= 1


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out(page, server, width) -> None:
    open_page(page, server)
    resize(page, width)
    wide, room = page.execute_script(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    )
    resize(page, 1280)
    assert wide <= room <= width


def test_frames_are_dropped_and_counted(page, server, make_clip, tmp_path, texture) -> None:
    """A step that takes longer than three frames: pictures stay in time, the rest is counted."""
    clip = make_clip(
        tmp_path / "c.webm", pixels=texture(50, 320, 180), codec="libvpx-vp9", crf="30"
    )
    open_page(page, server, model="tiny")
    page.execute_script("teco.lines = 0")
    page.find_element("id", "file").send_keys(str(clip))
    wait_for(page, "return document.getElementById('video').ended")
    settle(page)
    stats = page.execute_script("return teco.stats")
    assert stats["shown"] + stats["dropped"] <= 55
    if stats["dropped"]:  # the past is not carried over what was left out
        assert stats["scenes"] > 1


def test_large_frames_are_shrunk_and_slow_machines_take_their_time(
    page, server, make_clip, tmp_path, texture
) -> None:
    clip = make_clip(tmp_path / "c.webm", pixels=texture(75, 160, 96), codec="libvpx-vp9", crf="30")
    open_page(page, server, model="tiny")
    page.execute_script("teco.lines = 48; document.getElementById('every').click()")
    page.find_element("id", "file").send_keys(str(clip))
    wait_for(page, "return teco.stats.shown > 6 || document.getElementById('video').ended")
    stats, rate = page.execute_script(
        "return [teco.stats, document.getElementById('video').playbackRate]"
    )
    assert (stats["width"], stats["height"]) == (320, 192)
    if stats["milliseconds"] > 60:  # more than the 40 ms from frame to frame
        assert 1 / 16 <= rate < 1


def test_repeats_cost_nothing(page, server, texture) -> None:
    """As in Python: the same picture again, and the state as if it had not been there."""
    first, second = texture(2, 32, 24)
    open_page(page, server)
    once = [enlarge(page, frame).picture for frame in (first, second)]
    open_page(page, server)
    held = [enlarge(page, frame).picture for frame in (first, first, first, second)]
    assert apart(held, [once[0], once[0], once[0], once[1]]) == 0
    again = enlarge(page, second, jump=True)
    assert again.reason == "seek", "a seek starts a scene, even onto the same picture"


def test_frames_are_asked_all_at_once(page, server, texture) -> None:
    """Frames that come all at once are enlarged one after the other, in order."""
    open_page(page, server)
    frames = texture(4, 32, 24)
    once = [enlarge(page, frame).picture for frame in frames]
    open_page(page, server)
    together = enlarge(page, *frames)
    assert apart([x.picture for x in together], once) == 0

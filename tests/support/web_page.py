"""The browser player for tests: its folder, a server, and frames through the page to the bit."""

from __future__ import annotations

import base64
import contextlib
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import javascript
import numpy as np

from teco.core.npm_package import ONNXRUNTIME_WEB
from teco.model.opening import Model
from teco.players.web import onnxruntime_web
from teco.players.web.server import LOOPBACK, Server
from teco.players.web.site import site

SECONDS = 120


@dataclass(frozen=True)
class Shown:
    """One enlarged frame.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        reason: why a scene started with it, or "".
    """

    picture: np.ndarray
    reason: str


def runtime() -> onnxruntime_web.WebRuntime:
    """onnxruntime-web; skips where it has not been fetched."""
    javascript.needs(ONNXRUNTIME_WEB)
    return onnxruntime_web.find()


def site_folder(folder: Path, models: Sequence[Model]) -> Path:
    """A folder as `teco emit web` writes it, with these models."""
    for name, content in site(models, runtime()).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "README.md").write_text("a test\n")
    return folder


@contextlib.contextmanager
def serve(folder: Path, *, index: bool = False, host: str = LOOPBACK) -> Iterator[Server]:
    """The folder on a free port; ``index`` gives it an empty page first."""
    if index:
        (folder / "index.html").write_text("")
    with Server(folder, host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def wait_for(page: Any, script: str, seconds: float = SECONDS) -> Any:
    """Until the script returns something true, or the page says what is wrong."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := page.execute_script(script):
            return answer
        if "alert" not in script and (said := page.find_element("id", "alert").text):
            raise AssertionError(f"the page says: {said}")
        time.sleep(0.05)
    status = page.find_element("id", "status").text
    raise AssertionError(f"{script!r} is not true after {seconds:g} s; the page says {status!r}")


def settle(page: Any) -> None:
    """Until the last frame is on show: nothing in work, and drawn by the browser."""
    quiet = "return !teco.busy && !document.getElementById('video').seeking"
    wait_for(page, quiet)
    shown = -1
    while shown != (shown := page.execute_script("return teco.stats.shown")):
        time.sleep(0.4)  # a canvas takes what a worker painted with the next frame of the screen
        wait_for(page, quiet)


def open_page(
    page: Any, server: Server, *, model: str | None = None, backend: str | None = None
) -> None:
    """Load the page and wait until its model is ready."""
    page.get(server.url)
    wait_for(page, "return teco.ready")
    for name, value in (("model", model), ("backend", backend)):
        chosen = f"document.getElementById('{name}')"
        if value is not None and page.execute_script(f"return {chosen}.value") != value:
            page.execute_script(
                f"{chosen}.value = arguments[0]; {chosen}.dispatchEvent(new Event('change'))", value
            )
            wait_for(page, "return teco.ready")


_PUSH = """
const [texts, h, w, moment, finish] = arguments;
(async () => {
  const bytes = (text) => Uint8ClampedArray.from(atob(text), (x) => x.charCodeAt(0));
  const steps = texts.map((text) => teco.push(new ImageData(bytes(text), w, h), moment));
  const found = [];
  for (const { rgba, width, height, reason } of await Promise.all(steps)) {
    let text = "";
    for (let n = 0; n < rgba.length; n += 8192) {
      text += String.fromCharCode(...rgba.subarray(n, n + 8192));
    }
    found.push([height, width, reason, btoa(text)]);
  }
  return found;
})().then(finish, (error) => finish(String(error?.message ?? error)));
"""


def enlarge(page: Any, *frames: np.ndarray, jump: bool = False) -> Any:
    """Give the page's own player frames of (h, w, 3) RGB; several are all asked for at once.

    Returns:
        A :class:`Shown`, or a list of them for several frames.
    """
    h, w = frames[0].shape[:2]
    opaque = np.full((h, w, 1), 255, np.uint8)
    texts = [
        base64.b64encode(np.concatenate((f, opaque), axis=2).tobytes()).decode() for f in frames
    ]
    answer = page.execute_async_script(_PUSH, texts, h, w, {"jump": jump})
    assert isinstance(answer, list), answer
    shown = [
        Shown(np.frombuffer(base64.b64decode(text), np.uint8).reshape(H, W, 4)[..., :3], reason)
        for H, W, reason, text in answer
    ]
    return shown[0] if len(frames) == 1 else shown

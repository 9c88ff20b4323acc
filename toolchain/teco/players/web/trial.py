"""Does a browser accept the folder? A headless one opens the model and enlarges three frames."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote

from teco.core.errors import TecoError
from teco.players.web.server import Handler, Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SECONDS = 120
"""For the browser to start, load 14 MB of WebAssembly and run three steps."""

_PAGE = """<!doctype html><meta charset="utf-8"><title>trial</title>
<script type="module" src="teco-trial.js"></script>
"""
_JS = """\
import { Upscaler } from "./teco.js";
const size = SIZE;
const report = (text) => fetch("teco-trial-says?" + encodeURIComponent(text));
try {
  const { models } = await (await fetch("site.json")).json();
  for (const { file } of models) {
    const model = new URL(file, document.baseURI);
    const upscaler = await Upscaler.open({ model, backend: "wasm" });
    const data = new Uint8ClampedArray(4 * size.width * size.height).fill(128);
    for (let n = 0; n < 3; n++) {
      const { width } = await upscaler.enlarge({ data, ...size });
      if (width <= size.width) throw new Error(`${file} gives pictures ${width} wide`);
    }
    await upscaler.close();
  }
  await report("yes");
} catch (error) {
  await report(String(error?.message ?? error));
}
"""


def browser() -> str | None:
    """A browser that can run without a window; None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def trial(program: str, folder: Path, size: tuple[int, int]) -> None:
    """Have a browser run the folder's models.

    Args:
        program: from :func:`browser`.
        folder: complete.
        size: (h, w) of the frames.

    Raises:
        TecoError: it did not, with the page's own words.
    """
    h, w = size
    said: queue.Queue[str] = queue.Queue()
    script = _JS.replace("SIZE", f"{{ width: {w}, height: {h} }}")
    added = {"/teco-trial.html": _PAGE.encode(), "/teco-trial.js": script.encode()}

    class Trial(Handler):
        def do_GET(self) -> None:
            path, _, words = self.path.partition("?")
            if path == "/teco-trial-says":
                said.put(unquote(words))
                self.send_response(HTTPStatus.NO_CONTENT)
                self.end_headers()
            elif path in added:
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", self.guess_type(path))
                self.send_header("Content-Length", str(len(added[path])))
                self.end_headers()
                self.wfile.write(added[path])
            else:
                super().do_GET()

    with Server(folder, port=0, handler=Trial) as server:
        thread = threading.Thread(target=server.serve_forever, name="trial", daemon=True)
        thread.start()
        try:
            answer = _answer(program, f"{server.url}teco-trial.html", said)
        finally:
            server.shutdown()
            thread.join()
    if answer != "yes":
        raise TecoError(
            f"{Path(program).name} does not run {folder.name}: {answer}",
            hint="add --no-check to write the folder all the same",
        )


def _answer(program: str, url: str, said: queue.Queue[str]) -> str:
    """What a browser's page says, or why it says nothing."""
    with tempfile.TemporaryDirectory(prefix="teco-browser-", ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, f"--user-data-dir={profile}", url]
        # Chromium's sandbox refuses root, which is who runs in containers.
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")
        running = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                with contextlib.suppress(queue.Empty):
                    return said.get(timeout=0.5)
                if (code := running.poll()) is not None:
                    return f"it ended with code {code}"
            return f"it said nothing for {SECONDS} s"
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()

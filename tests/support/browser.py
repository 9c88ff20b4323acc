"""A headless Chromium for tests of pages: one place for how it is started and stopped.

Debian's chromium and chromedriver by selenium. ``TECO_CHROMIUM`` and ``TECO_CHROMEDRIVER`` name
others. Where there is none, tests skip and say so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    # Containers give /dev/shm too little for a page that holds pictures.
    "--disable-dev-shm-usage",
)
WITHOUT_GPU = ("--disable-gpu",)
SOFTWARE_WEBGPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    # Without these two, whatever paints on a canvas by WebGPU ends Chromium's GPU process.
    "--use-angle=vulkan",
    "--use-vulkan=swiftshader",
)


def why_not() -> str | None:
    """None where a browser can be driven here, else one sentence."""
    if not _program("chromium") or not _program("chromedriver"):
        return "needs chromium and chromedriver: apt install chromium chromium-driver"
    if importlib.util.find_spec("selenium") is None:
        return "needs selenium: pip install selenium"
    return None


def _program(name: str) -> str | None:
    return os.environ.get(f"TECO_{name.upper()}") or shutil.which(name)


@contextlib.contextmanager
def chromium(
    *flags: str, webgpu: bool = False, width: int = 1280, height: int = 900
) -> Iterator[Any]:
    """A browser with an empty profile of its own.

    Args:
        flags: more of Chromium's switches.
        webgpu: offer WebGPU by Chromium's software adapter; else the GPU is off altogether.
        width, height: of the window, CSS pixels.

    Yields:
        A selenium WebDriver.
    """
    if (reason := why_not()) is not None:
        # Where it is asked for, a browser that is missing is a failure.
        (pytest.fail if os.environ.get("TECO_REQUIRE") == "browser" else pytest.skip)(reason)
    from selenium import webdriver as selenium
    from selenium.webdriver.chrome.service import Service

    profile = tempfile.mkdtemp(prefix="teco-chromium-")
    options = selenium.ChromeOptions()
    options.binary_location = str(_program("chromium"))
    graphics = SOFTWARE_WEBGPU if webgpu else WITHOUT_GPU
    for flag in (*QUIET, *graphics, f"--window-size={width},{height}", *flags):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = selenium.Chrome(options=options, service=Service(_program("chromedriver")))
    page.set_script_timeout(240)
    page.set_page_load_timeout(60)
    try:
        yield page
    finally:
        page.quit()
        shutil.rmtree(profile, ignore_errors=True)


def resize(page: Any, width: int, height: int = 900) -> None:
    """Give the page exactly this much room, CSS pixels: windows cannot be narrower than 500."""
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def screenshot(page: Any, path: Path, width: int, height: int = 900) -> Path:
    """A picture of the page at this width, as tall as the page is."""
    import base64

    resize(page, width, height)
    tall = page.execute_script("return Math.ceil(document.documentElement.scrollHeight)")
    resize(page, width, max(height, int(tall)))
    shot = page.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(shot["data"]))
    return path

"""A headless Chromium without WebGL and without network, which pages from disk are opened in."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator

import pytest

_REAL = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
_REAL_FUNCTIONS = {name: getattr(socket, name) for name in ("getaddrinfo", "create_connection")}
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-webgl", "--disable-3d-apis"),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--window-size=1280,1000", "--force-device-scale-factor=1", "--force-prefers-reduced-motion"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
_SETTLED = "return document.documentElement.dataset.map === 'ready' || !document.getElementById('map-problem').hidden"
HANG = 60
"""Seconds after which a page hangs: no measure of speed."""


def _only_here(host: object) -> None:
    if host not in ("127.0.0.1", "localhost", "::1"):
        raise OSError("tests have no network")


@pytest.fixture(scope="module")
def _loopback(_no_network: None) -> Iterator[None]:
    """Let the driver be spoken to, which is a server on this machine; nothing beyond it."""

    def connect(name: str) -> Callable:
        def call(self: socket.socket, address: tuple) -> object:
            _only_here(address[0])
            return _REAL[name](self, address)

        return call

    def lookup(name: str) -> Callable:
        def call(address: object, *args: object, **kwargs: object) -> object:
            _only_here(address[0] if isinstance(address, tuple) else address)
            return _REAL_FUNCTIONS[name](address, *args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _REAL:
            patch.setattr(socket.socket, name, connect(name))
        for name in _REAL_FUNCTIONS:
            patch.setattr(socket, name, lookup(name))
        yield


@pytest.fixture(scope="module")
def chromium(_loopback: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A browser with a profile of its own; skips where there is none."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install 'selenium>=4.20'"
    )
    from selenium.webdriver.chrome.service import Service

    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no chromium or chromedriver on PATH: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def opened(chromium: object, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], object]:
    """Open a page from disk and wait for its map, if it has one."""

    def open_page(page: bytes, name: str = "report.html") -> object:
        path = tmp_path_factory.mktemp("page") / name
        path.write_bytes(page)
        for log in ("browser", "performance"):
            chromium.get_log(log)
        chromium.get(path.as_uri())
        if b'id="map-facts"' in page:
            until(lambda: chromium.execute_script(_SETTLED), HANG)
        return chromium

    return open_page


def until(happened: Callable[[], object], seconds: float = 10) -> object:
    """Wait for what is to happen, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if told := happened():
            return told
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} s")


def requested(chromium: object) -> list[str]:
    """What the browser asked for since a page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # What the browser's own first page asks for may come late.
    return [one["request"]["url"] for one in asked if not one["documentURL"].startswith("chrome")]

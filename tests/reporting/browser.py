"""A headless Chromium, driven by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_WAIT_SECONDS = 60


def find_browser() -> str | None:
    """Path of a Chromium on this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a browser; what goes wrong on it and what it asks of the network is noted."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something and wait for its answer."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, content = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = content["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(one.get("value", one)) for one in content["args"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.complaints.append(content["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def open(self, path: Path) -> None:
        """Open a file and wait until it says that it is ready."""
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("document.documentElement?.dataset.ready === 'true'")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + _WAIT_SECONDS
        while not self.evaluate(expression):
            if time.monotonic() > until:
                raise TimeoutError(f"{expression} did not come true; the page says {self.complaints}")
            time.sleep(0.1)

    def click(self, selector: str) -> None:
        """Click the middle of an element, as a mouse does."""
        box = self._show(selector)
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def picture(self, selector: str) -> bytes:
        """PNG of an element that is no larger than the window."""
        box = self._show(selector)
        scrolled = self.evaluate("({x: scrollX, y: scrollY})")
        clip = {**box, "x": box["x"] + scrolled["x"], "y": box["y"] + scrolled["y"], "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", clip=clip)["data"])

    def whole_picture(self) -> bytes:
        """PNG of the whole page."""
        box = {**self._box("html"), "x": 0, "y": 0, "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=box)["data"])

    def _show(self, selector: str) -> dict[str, float]:
        """Scroll an element to the middle of the window, let it be drawn, and say where it is."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        return self._box(selector)

    def _box(self, selector: str) -> dict[str, float]:
        """Where an element is in the window, in pixels."""
        return self.evaluate(
            f"(({{x, y, width, height}}) => ({{x, y, width, height}}))"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )


@contextlib.contextmanager
def open_browser(program: str, width: int = 1200, height: int = 1200) -> Iterator[Page]:
    """A page in a browser of its own, which ends with it."""
    import websocket

    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen(
            [
                program, "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
                "--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={width},{height}",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--remote-allow-origins=*", "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            socket = websocket.create_connection(_address(Path(profile), process), timeout=_WAIT_SECONDS)
            with contextlib.closing(socket):
                yield Page(socket)
        finally:
            process.terminate()
            process.wait()


def _address(profile: Path, process: subprocess.Popen) -> str:
    """WebSocket of the first page, once the browser listens."""
    from urllib.request import urlopen

    announced = profile / "DevToolsActivePort"
    until = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if announced.is_file() and announced.read_text().count("\n"):
            port = announced.read_text().split()[0]
            with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_WAIT_SECONDS) as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise RuntimeError("the browser did not start")

"""A real Chromium for tests: opened headless, told what to do over its debugging pipe, clicked and typed
into. It needs no driver.

The protocol is that of the browser's developer tools: one JSON object a message, each ended by a zero byte,
over the file descriptors 3 and 4 of the browser's process.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
KEYS = {"ArrowDown": 40, "ArrowUp": 38, "Tab": 9}


class Browser:
    """One browser with one tab. `console` holds what the tab complained of."""

    def __init__(self, profile: Path, *, seconds: float = 60) -> None:
        self.console: list[str] = []
        self._seconds, self._number, self._session, self._buffer = seconds, 0, "", b""
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # The shell puts the pipe where the browser expects it.
        script = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        flags = [*FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, "sh", str(CHROMIUM), *flags],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def __enter__(self) -> Self:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Log.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The browser's answer to one command."""
        self._number += 1
        number = self._number
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": number, "method": method, "params": params, **session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda each: each.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def open(self, page: Path, *, width: int = 1060, height: int = 1200, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        self._until(lambda each: each.get("method") == "Page.loadEventFired")

    def value(self, script: str) -> Any:
        """What an expression of the page's is."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Presses and releases the left button in the middle of what is found, brought into view."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{element}.scrollIntoView({{block: 'center'}})")
        box = self.value(
            f"(b => ({{x: b.x + b.width / 2, y: b.y + b.height / 2}}))({element}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **box, button="left", clickCount=1)

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            code = KEYS[key]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self) -> bytes:
        """PNG of what is in view."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + self._seconds
        while True:
            message, found, rest = self._buffer.partition(b"\0")
            if not found:
                left = max(0.0, deadline - time.monotonic())
                assert select.select([self._from], [], [], left)[0], "the browser does not answer"
                data = os.read(self._from, 1 << 20)
                assert data, "the browser has ended"
                self._buffer += data
                continue
            self._buffer = rest
            parsed = json.loads(message)
            if parsed.get("method") == "Log.entryAdded":
                self.console.append(parsed["params"]["entry"]["text"])
            if wanted(parsed):
                return parsed

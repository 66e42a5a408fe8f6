"""A real Chromium without a window or a network, for tests of the pages that people open.

Selenium with Debian's chromium and chromium-driver: both come by apt-get, nothing is downloaded. The browser
reaches nothing but this machine; WebGL is drawn by the processor.
"""

import contextlib
import functools
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator

import pytest

CHROMIUM, DRIVER = (
    next(filter(None, map(shutil.which, names)), None) for names in (("chromium",), ("chromedriver",))
)
DESKTOP, PHONE = (1280, 900), (390, 844)
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--force-color-profile=srgb"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
    # The network is off: no name is found, and every address but this machine's goes to a proxy that is none.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    *("--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1;localhost"),
)
# Of the drawing processor, and on tests that read pixels: nothing a page could do better.
_HINTS = ("GL Driver Message", "willReadFrequently")


class Browser:
    """A page in Chromium. `driver` is Selenium's; what tests of several pages need has names here."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, page: str | pathlib.Path, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        """Opens a file of the disk, or an address of this machine, as a screen of that size shows it."""
        self.shape(size, dark)
        self.driver.get(page.resolve().as_uri() if isinstance(page, pathlib.Path) else page)

    def shape(self, size: tuple[int, int], dark: bool = False) -> None:
        """Makes the page that wide and high (CSS pixels), in the light or the dark scheme."""
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def run(self, script: str, *arguments):
        """What a script returns, e.g. `run("return document.title")`."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, seconds: float = 120) -> None:
        """Until a script returns something true. The limit is generous: machines of CI are slow."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds).until(lambda driver: driver.execute_script(script), script)

    def errors(self) -> list[str]:
        """What the console has said since it was asked last: warnings and errors without WebGL's own hints."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING") and not any(hint in entry["message"] for hint in _HINTS)
        ]

    def accessibility_faults(self) -> list[str]:
        """What axe-core finds serious or critical in the page; skips the test where npm cannot give it."""
        self.run(_axe())
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run().then(done, (error) => done(String(error)))"
        )
        assert isinstance(found, dict), found
        return [
            f"{fault['id']}: {fault['help']}: {node['html'][:200]}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    def picture(self, path: str | pathlib.Path, whole: bool = False) -> None:
        """A screenshot as PNG; of the whole page, or of what the screen shows."""
        import base64

        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))


@functools.cache
def _axe() -> str:
    """axe-core's script, out of npm's cache or registry; no file of it lies in this repository."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "axe-core@4", "--prefer-offline", "--silent", "--pack-destination", folder]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, check=True, capture_output=True, timeout=300, cwd=folder)
        for archive in pathlib.Path(folder).glob("*.tgz"):
            with tarfile.open(archive) as content:
                return content.extractfile("package/axe.min.js").read().decode()
    pytest.skip("npm gives no axe-core here: the page's accessibility is not judged")


@contextlib.contextmanager
def started(downloads: str | pathlib.Path | None = None) -> Iterator[Browser]:
    """A browser of one's own; skips the test, and says why, where there is none.

    Args:
        downloads: a folder for what pages let a person download.
    """
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium, of the extra `dev`, is not installed"
    )
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in _OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if downloads is not None:
        wishes = {"download.default_directory": str(downloads), "download.prompt_for_download": False}
        options.add_experimental_option("prefs", wishes)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(300)
    driver.set_script_timeout(300)
    try:
        yield Browser(driver)
    finally:
        driver.quit()

"""The embedded server in a process of its own: one that may be killed, and whose memory can be watched."""

import contextlib
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil

START_S = 120


class Served:
    """A running server: `.address`, `.port`, `.kill()`; what it said is in the file `.log`."""

    def __init__(self, process: subprocess.Popen, log: pathlib.Path):
        self.process = process
        self.log = log
        self._heard = 0
        self.address = self._ready()
        self.port = int(self.address.rpartition(":")[2])

    def _ready(self) -> str:
        limit = time.monotonic() + START_S
        while time.monotonic() < limit and self.process.poll() is None:
            if found := re.search(r"^ready: .* on (\S+:\d+)$", self.log.read_text(), re.MULTILINE):
                return found[1]
            time.sleep(0.05)
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")

    def said(self) -> str:
        """What it said since this was last asked."""
        with self.log.open("rb") as file:
            file.seek(self._heard)
            said = file.read()
        self._heard += len(said)
        return said.decode(errors="replace")  # gRPC repeats what it could not read

    def kill(self) -> None:
        """SIGKILL: it has no time to say anything to anybody."""
        self.process.kill()
        self.process.wait()

    def resident_bytes(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[int]]:
        """Yields a list that will hold the most bytes the server had while the block ran."""
        most, stop = [self.resident_bytes()], threading.Event()

        def look() -> None:
            while not stop.wait(0.01):
                with contextlib.suppress(psutil.NoSuchProcess):
                    most[0] = max(most[0], self.resident_bytes())

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield most
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def serving(base_path, log, *options: str) -> Iterator[Served]:
    """`python -m serving.server` on a model, until the block ends; adds what it says to the file `log`."""
    log = pathlib.Path(log)
    command = [sys.executable, "-m", "serving.server", "--model_base_path", str(base_path), *options]
    if "--port" not in options:
        command += ["--port", "0"]
    # A new file each time: an earlier server's "ready" must not be taken for this one's.
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield Served(process, log)
        finally:
            process.terminate()
            process.wait(60)

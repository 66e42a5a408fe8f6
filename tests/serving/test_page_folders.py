"""The folder that a page keeps its sessions in: private, and gone with the process, or at the next start."""

import pathlib
import signal
import subprocess
import sys

import pytest

from serving.page import sessions
from tfbrats.errors import InputError


def test_what_a_killed_page_leaves_goes_at_the_next_start_and_a_living_ones_stays(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "from serving.page import sessions\n"
        "from serving.page.limits import Limits\n"
        "with sessions.server_folder(sys.argv[1]) as folder:\n"
        "    path = sessions.Sessions(folder, Limits()).begin().path_of('t1.nii')\n"
        "    pathlib.Path(path).write_bytes(b'a scan')\n"
        "    print(path, flush=True); time.sleep(600)\n"
    )
    parent = tmp_path / "pages"
    begun = [
        subprocess.Popen([sys.executable, "-c", code, str(parent)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        killed, alive = (pathlib.Path(process.stdout.readline().strip()) for process in begun)
        begun[0].send_signal(signal.SIGKILL)
        begun[0].wait()
        assert killed.exists() and alive.exists()
        with sessions.server_folder(str(parent)):
            assert not killed.exists() and alive.exists()
    finally:
        for process in begun:
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_folder_that_others_may_open_is_not_used(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("open", "link"):
        with pytest.raises(InputError, match="of your own"), sessions.server_folder(str(tmp_path / name)):
            pass

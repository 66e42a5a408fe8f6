"""The page over HTTP: the same bytes as `predict`, faults in words, strangers refused, nothing kept."""

import gzip
import json
import pathlib
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from concurrent import futures

import numpy as np
import psutil
import pytest
import tiny_model
from asked_page import Asked, held, is_left, opened, sent
from hostile_uploads import uploads

import tfbrats
from serving import server
from serving.page import __main__ as command_of_page
from serving.page import door
from serving.page.limits import MIB, Limits
from serving.rest import http_port
from tfbrats import predict
from tfbrats.errors import InputError
from tfbrats.phantoms import data_sets
from tfbrats.phantoms.simulation import simulate
from tfbrats.predictions import model_card


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "tiny"
    version = tiny_model.write(base)
    (version / model_card.FILE).write_bytes(tiny_model.card().to_file())  # by which `predict` knows it
    return base


@pytest.fixture(scope="module")
def served(base):
    with server.start(base) as running:
        yield running


@pytest.fixture(scope="module")
def page(served, tmp_path_factory):
    with opened(served, tmp_path_factory.mktemp("page") / "tfbrats") as (running, asked):
        asked.folder = pathlib.Path(running.folder)
        yield asked


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A simulated case in a folder of its own, as BraTS 2021 has it."""
    root = tmp_path_factory.mktemp("cases")
    (case_id,) = data_sets.write_dataset(root, 1, "2021", 3, (32, 32, 24))
    return root / case_id


# --- what one gets --------------------------------------------------------------------------------------


def test_the_file_is_predicts_to_the_byte_and_so_is_where_it_comes_from(page, base, case, tmp_path):
    session = sent(page, case)
    _, described = page.ask("GET", f"{session}/scans")
    assert [one["id"] for one in described["cases"]] == [case.name] and described["fault"] is None
    work = page.segmented(session, case=case.name)
    assert work["fault"] is None and list(work["seconds"]) == ["wait", "read", "segment", "write", "draw"]
    predict.main(["--model", str(base), "--input", str(case), "--output", str(tmp_path), "--provenance"])
    status, content = page.ask("GET", f"{session}/download/segmentation")
    assert status == 200 and content == (tmp_path / f"{case.name}.nii.gz").read_bytes()
    status, content = page.ask("GET", f"{session}/download/provenance")
    origin = json.loads(content)
    assert status == 200 and re.fullmatch("[0-9a-f]{16}", origin.pop("request_id"))  # of the server's log
    assert origin == json.loads((tmp_path / f"{case.name}.json").read_text())
    result, loaded = work["result"], tfbrats.load_case(case)
    assert result["simulated"] and set(result["volumes_ml"]) == set(result["dice"]) == {"WT", "TC", "ET"}
    # The case has a reference: its lesions are told, and the false ones.
    of_reference = [lesion["ml"]["WT"] for lesion in result["lesions"] if lesion["outcome"] != "false"]
    assert sum(of_reference) == pytest.approx(loaded.volumes_ml["WT"])
    assert page.ask("GET", f"{session}/download/pdf")[1].startswith(b"%PDF")
    assert page.ask("GET", f"{session}/download/png")[1].startswith(b"\x89PNG")
    assert page.ask("GET", f"{session}/view")[1].startswith(b"<!doctype html>")
    page.ask("POST", f"{session}/end")


def test_four_files_of_any_names_are_told_apart_and_may_be_changed(page, base, case, tmp_path):
    scans = {"flair": "Smith_FLAIR", "t1": "Smith_T1", "t1ce": "Smith_T1_post", "t2": "Smith_T2"}
    (tmp_path / "scans").mkdir()
    for modality, name in scans.items():
        content = (case / f"{case.name}_{modality}.nii.gz").read_bytes()
        (tmp_path / "scans" / f"{name}.nii.gz").write_bytes(content)
    paths = {modality: tmp_path / "scans" / f"{name}.nii.gz" for modality, name in scans.items()}
    swapped = {**paths, "t1": paths["t2"], "t2": paths["t1"]}
    session = sent(page, tmp_path / "scans", below=False)
    _, described = page.ask("GET", f"{session}/scans")
    (only,) = described["cases"]
    assert only["scans"] == {modality: path.name for modality, path in paths.items()}
    assert "Smith_T1_post.nii.gz" in described["notes"][0] and "choose it below" in described["notes"][0]
    for chosen, meant in (
        ({"case": only["id"]}, paths),
        ({"scans": {m: p.name for m, p in swapped.items()}}, swapped),
    ):
        work = page.segmented(session, **chosen)
        assert work["fault"] is None and work["result"]["case"] == "Smith"
        output = tmp_path / "seg.nii.gz"
        flags = [text for modality, path in meant.items() for text in (f"--{modality}", str(path))]
        predict.main(["--model", str(base), *flags, "--output", str(output), "--overwrite"])
        assert page.ask("GET", f"{session}/download/segmentation")[1] == output.read_bytes()
    page.ask("POST", f"{session}/end")


def test_a_dicom_study_is_taken_and_given_back_as_dicom_seg(page, base, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom, of the extra `dicom`, is not installed")
    import dicom_files
    import pydicom

    image, _ = simulate((32, 32, 24), 5, 1)
    names = {"flair": "AX T2 FLAIR", "t1": "AX T1", "t1ce": "AX T1 POST GD", "t2": "AX T2"}
    for number, (name, array) in enumerate(zip(names.values(), np.moveaxis(image, -1, 0), strict=True), 1):
        dicom_files.write(tmp_path / "study" / f"s{number}", array, dicom_files.affine(), number, name)
    session = page.begin()
    for path in sorted((tmp_path / "study").rglob("IM*")):
        status, content = page.put(session, str(path.relative_to(tmp_path)), path.read_bytes())
        assert status == 200, content
    _, described = page.ask("GET", f"{session}/scans")
    (only,) = described["cases"]
    assert only["scans"]["t1ce"] == "series 3 (AX T1 POST GD)" and only["scans"]["t1ce"] in described["files"]
    assert "choose it below" in described["notes"][0] and "--" not in " ".join(described["notes"])
    work = page.segmented(session, case=only["id"])
    assert work["fault"] is None and "dicom-seg" in work["result"]["downloads"]
    arguments = ["--model", str(base), "--input", str(tmp_path / "study"), "--output", str(tmp_path / "own")]
    predict.main([*arguments, "--dicom-seg"])
    _, content = page.ask("GET", f"{session}/download/segmentation")
    assert content == (tmp_path / "own" / f"{only['id']}.nii.gz").read_bytes()
    (tmp_path / "page.dcm").write_bytes(page.ask("GET", f"{session}/download/dicom-seg")[1])
    ours, predicts = (
        pydicom.dcmread(path) for path in (tmp_path / "page.dcm", tmp_path / "own" / f"{only['id']}.dcm")
    )
    assert ours.Modality == "SEG" and ours.PixelData == predicts.PixelData
    again = page.segmented(session, scans=only["scans"])  # named one by one
    assert again["fault"] is None and again["result"]["volumes_ml"] == work["result"]["volumes_ml"]
    page.ask("POST", f"{session}/end")


def test_faults_are_told_in_words_and_name_the_files_alone(page, case):
    session = page.begin()
    html = b"<!DOCTYPE html><title>Log in</title>"
    status, content = page.put(session, "patient/T1.nii.gz", html)
    assert status == 422 and content["fault"].startswith("patient/T1.nii.gz: an HTML or XML page")
    scan = (case / f"{case.name}_t1.nii.gz").read_bytes()
    for name in ("a_T1.nii.gz", "b_T1.nii.gz", "FLAIR.nii.gz", "T2.nii.gz"):
        assert page.put(session, name, scan)[0] == 200
    _, described = page.ask("GET", f"{session}/scans")
    assert "a_T1.nii.gz and b_T1.nii.gz may both be t1" in described["fault"]
    assert "Choose them below" in described["fault"] and str(page.folder) not in described["fault"]
    assert described["guess"] == {"flair": "FLAIR.nii.gz", "t2": "T2.nii.gz"}
    other = page.begin()  # what voxels tell, when they are read
    for modality in ("flair", "t1", "t1ce", "t2"):
        content = (case / f"{case.name}_{modality}.nii.gz").read_bytes()
        page.put(other, f"{modality}.nii", gzip.decompress(content)[: -9 if modality == "t2" else None])
    _, described = page.ask("GET", f"{other}/scans")
    work = page.segmented(other, case=described["cases"][0]["id"])
    assert "t2.nii: truncated" in work["fault"] and str(page.folder) not in work["fault"]
    assert work["result"] is None and page.ask("GET", f"{other}/download/segmentation")[0] == 404
    for path in (session, other):
        page.ask("POST", f"{path}/end")


def test_a_simulated_case_can_be_tried(page):
    session = page.begin()
    assert page.ask("POST", f"{session}/phantom")[0] == 200
    _, described = page.ask("GET", f"{session}/scans")
    assert described["simulated"] and len(described["cases"]) == 1 and described["fault"] is None
    page.ask("POST", f"{session}/end")
    assert not held(page.folder)


# --- who may ask ----------------------------------------------------------------------------------------


def test_other_sites_and_other_names_are_refused(page):
    session = page.begin()
    evil = "https://evil.example"
    for headers, status in (
        ({"Origin": evil}, 403),
        ({"Origin": None}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": f"evil.example:{page.port}", "Origin": f"http://evil.example:{page.port}"}, 421),
    ):
        for method, path in (
            ("POST", "/sessions"),
            ("PUT", f"{session}/file?name=t1.nii"),
            ("POST", f"{session}/end"),
        ):
            assert page.ask(method, path, b"x", headers)[0] == status, (headers, path)
    assert page.ask("GET", session, headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert page.ask("GET", "/", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200  # a link to it
    assert page.ask("GET", "/", headers={"Host": f"localhost:{page.port}"})[0] == 200
    assert page.ask("GET", session)[0] == 200
    page.ask("POST", f"{session}/end")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "by TLS alone"),
        (["--host", "192.0.2.7", "--name", "brats.example.org"], "by TLS alone"),
        (["--host", "0.0.0.0", "--tls-certificate", "PEM", "--tls-key", "PEM"], "Give --name"),
        (["--tls-certificate", "PEM"], "the two go together"),
        (["--tls-certificate", "no.pem", "--tls-key", "no.pem"], "no.pem: no such file"),
        (["--token-file", "PEM"], "16 or more"),
        (["--port", "70000"], "ports 1 to 65535"),
        (["--server", "localhost:8500"], "which model"),
    ],
)
def test_what_is_not_safe_is_refused_before_anything_begins(arguments, said, tmp_path):
    pem = tmp_path / "some.pem"
    pem.write_text("short")
    given = ["--server", "localhost:1/tiny", *(str(pem) if text == "PEM" else text for text in arguments)]
    with pytest.raises(InputError, match=said):
        command_of_page.main(given)


def test_beyond_this_machine_it_wants_its_token_over_tls(served, tmp_path):
    made = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=brats.test -addext subjectAltName=DNS:brats.test"
    )
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    try:
        command = ["openssl", *made.split(), "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here to make a certificate with")
    asked = door.door("0.0.0.0", 0, ["brats.test"], certificate, key, None)
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    with opened(served, tmp_path / "page", asked) as (page, _):
        assert page.url.startswith(f"https://brats.test:{page.port}/#token=") and len(asked.token) >= 32
        host = f"brats.test:{page.port}"

        def answer(path: str, body: bytes | None = None, **headers: str):
            request = urllib.request.Request(f"https://127.0.0.1:{page.port}{path}", body)
            for name, value in {"Host": host, "Origin": f"https://{host}", **headers}.items():
                request.add_header(name, value)
            try:
                with urllib.request.urlopen(request, context=context) as got:
                    return got.status, got.headers
            except urllib.error.HTTPError as error:
                return error.code, error.headers

        assert answer("/")[0] == 200
        assert answer("/", Host=f"127.0.0.1:{page.port}")[0] == 421
        assert answer("/sessions", b"")[0] == 401
        for token, status in (("wrong" * 8, 401), (asked.token, 200)):
            _, headers = answer("/login", json.dumps({"token": token}).encode())
            cookie = headers["set-cookie"]
            assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=strict"))
            assert answer("/sessions", b"", Cookie=cookie.partition(";")[0])[0] == status


# --- nothing is kept ------------------------------------------------------------------------------------


def test_an_ended_session_leaves_nothing_and_is_gone(page, case):
    session = sent(page, case)
    assert held(page.folder)
    assert page.ask("POST", f"{session}/end")[0] == 200
    assert not held(page.folder)
    for method, path in (("GET", session), ("GET", f"{session}/scans"), ("PUT", f"{session}/file?name=t1.nii")):
        status, content = page.ask(method, path, b"x" if method == "PUT" else None)
        assert status == 404 and "has ended" in content["fault"]


def test_a_session_that_ends_while_its_case_is_done_leaves_nothing(page, case):
    session = sent(page, case)
    page.ask("POST", f"{session}/segment", json.dumps({"case": case.name}).encode())
    page.ask("POST", f"{session}/end")
    assert not is_left(page.folder)


def test_what_is_silent_ends_and_a_crowd_is_told(served, tmp_path):
    limits = Limits(sessions=2, silent_s=900, crowded_s=0.2)
    with opened(served, tmp_path / "page", limits=limits) as (page, asked):
        first, second = asked.begin(), asked.begin()
        status, content = asked.ask("POST", "/sessions")
        assert status == 503 and "2 people" in content["fault"]
        time.sleep(0.3)
        assert asked.ask("POST", f"{second}/alive")[0] == 200
        assert asked.ask("POST", "/sessions")[0] == 200  # in the place of the silent one
        assert asked.ask("GET", first)[0] == 404 and asked.ask("GET", second)[0] == 200
        page.sessions._limits = Limits(silent_s=0)
        page.sessions.end_silent()
        assert len(page.sessions) == 0 and not held(pathlib.Path(page.folder))


def test_a_stopped_page_leaves_nothing(served, case, tmp_path):
    with opened(served, tmp_path / "page") as (page, asked):
        sent(asked, case)
        assert held(pathlib.Path(page.folder))
    assert not held(tmp_path / "page") and not pathlib.Path(page.folder).exists()


# --- two hundred that should not come -------------------------------------------------------------------


def besiege(asked: Asked, folder: pathlib.Path, count: int, at_once: int) -> dict[int | None, int]:
    """Sends hostile uploads from several threads; returns status -> how many. Each has a clean answer."""
    sessions_open = [asked.begin() for _ in range(4)]
    counts: dict[int | None, int] = {}
    wrong, lock = [], threading.Lock()

    def one(number: int, upload) -> None:
        status = upload.send(asked, sessions_open[number % 4])
        with lock:
            counts[status] = counts.get(status, 0) + 1
            if status not in upload.clean:
                wrong.append((upload.title, status, sorted(map(str, upload.clean))))

    with futures.ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(count), uploads(count)))
    assert not wrong
    for session in sessions_open:
        assert asked.ask("GET", f"{session}/scans")[0] == 200  # whatever lies there now
        assert asked.ask("POST", f"{session}/end")[0] == 200
    assert not is_left(folder)
    return counts


def test_hostile_uploads_get_a_clean_answer_and_leave_nothing(page, case, monkeypatch):
    monkeypatch.setattr(http_port, "_LOOK_S", 1)
    besiege(page, page.folder, 60, 8)
    assert page.segmented(sent(page, case), case=case.name)["fault"] is None  # and it still works


@pytest.mark.slow
def test_two_hundred_hostile_uploads_in_bounded_memory(served, case, tmp_path, capsys):
    code = (
        "import sys, time\n"
        "from serving.connection import Client\n"
        "from serving.page import door, web\n"
        "from serving.page.limits import Limits\n"
        "from serving.rest import http_port\n"
        "http_port._LOOK_S = 2\n"
        "with web.Page(Client(sys.argv[1]), door.Door(port=0), Limits(read_s=2), sys.argv[2]) as page:\n"
        "    print(page.port, page.folder, flush=True); sys.stdin.read()\n"
    )
    address = f"{served.address}/{served.model_name}"
    command = [sys.executable, "-c", code, address, str(tmp_path / "page")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        port, folder = process.stdout.readline().split()
        asked = Asked(int(port))
        session = sent(asked, case)
        assert asked.segmented(session, case=case.name)["fault"] is None
        asked.ask("POST", f"{session}/end")
        memory, most, stop = psutil.Process(process.pid), [0], threading.Event()
        before = memory.memory_info().rss

        def watch() -> None:
            while not stop.wait(0.01):
                most[0] = max(most[0], memory.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            counts = besiege(asked, pathlib.Path(folder), 200, 16)
        finally:
            stop.set()
            watcher.join()
        assert asked.segmented(sent(asked, case), case=case.name)["fault"] is None
        process.stdin.close()
        assert process.wait(60) == 0
    assert not held(tmp_path / "page")
    grown = (most[0] - before) / MIB
    with capsys.disabled():
        held_bytes = f"memory {before / MIB:.0f} MiB, at most +{grown:.0f} MiB"
        print(f"\n200 hostile uploads, 16 at once: {counts}; {held_bytes}")
    assert grown < 600

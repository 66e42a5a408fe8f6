"""What strangers hand in, as functions of bytes. One that returns has given the clean error that is documented.

`TARGETS` says for each what it reads and which of our code guides the search. `opened` sets a target up; what
it gives is called with one input after the other, and raises where the code under it has a fault: any
exception but the documented one, an answer that differs from a second reader's, or something left behind.
"""

import asyncio
import contextlib
import gzip
import io
import json
import os
import pathlib
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

Try = Callable[[bytes], None]
_PLAIN_BYTES = 2**22  # to which an input may be unpacked by the second reader
_CALL_S = 60


class Fault(AssertionError):
    """The code under a target did something that it is not to do."""


class Target(NamedTuple):
    """What is tried.

    Attributes:
        opened: sets it up below a folder; a context manager.
        seeds: sound inputs, from which others are made.
        guided_by: modules of which the search wants to reach every line.
    """

    opened: Callable[[pathlib.Path], contextlib.AbstractContextManager[Try]]
    seeds: Callable[[], list[bytes]]
    guided_by: tuple[str, ...]


# --- files ----------------------------------------------------------------------------------------------


def _nifti(shape=(6, 5, 4), kind="<i2", change=lambda header: None) -> bytes:
    import nibabel
    import numpy as np

    array = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    image = nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    change(image.header)
    return image.to_bytes()


def _niftis() -> list[bytes]:
    import nibabel
    import numpy as np

    def scaled(header):
        header.set_slope_inter(2, 1)

    second = nibabel.Nifti2Image(np.ones((3, 4, 5), np.float32), np.eye(4)).to_bytes()
    turned = nibabel.Nifti1Image(np.ones((3, 4, 5), "u1"), np.diag([2.0, -1.0, 1.5, 1.0])).to_bytes()
    kinds = [_nifti(kind=kind) for kind in ("u1", "<i2", ">i2", "<f4", "<f8")]
    return [*kinds, _nifti((6, 5, 4, 2)), _nifti(change=scaled), second, turned]


def _packed_by(way: int, content: bytes) -> bytes:
    """As it is, or as gzip: in one member, in two, or with something behind."""
    if way % 4 == 0:
        return content
    if way % 4 == 1:
        return gzip.compress(content, 1, mtime=0)
    if way % 4 == 2:
        half = len(content) // 2
        return gzip.compress(content[:half], 1, mtime=0) + gzip.compress(content[half:], 1, mtime=0)
    return gzip.compress(content, 1, mtime=0) + content[:9]


def _gunzipped(content: bytes) -> bytes | None:
    """By the standard library; None where it refuses, or the result is long."""
    try:
        plain = gzip.GzipFile(fileobj=io.BytesIO(content)).read(_PLAIN_BYTES)
    except (EOFError, OSError, zlib.error):
        return None
    return plain if len(plain) < _PLAIN_BYTES else None


@contextlib.contextmanager
def _gunzip(folder: pathlib.Path) -> Iterator[Try]:
    """`.nii.gz` unpacked: as the standard library does it, or refused."""
    from tfbrats.errors import InputError
    from tfbrats.machine import gunzip

    path = folder / "scan.nii.gz"

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(InputError):
            if len(gunzip.beginning(path, 540)) > 540:
                raise Fault("more than was asked for")
        try:
            plain = bytes(gunzip.unpacked(content, "scan.nii.gz"))
        except InputError:
            return
        second = _gunzipped(content) if content[:2] == b"\x1f\x8b" else content
        if second is not None and plain != second:
            raise Fault(f"{len(plain)} bytes, and {len(second)} by the standard library")

    yield attempt


@contextlib.contextmanager
def _scan(folder: pathlib.Path) -> Iterator[Try]:
    """A NIfTI file as one of a case's scans, and by itself."""
    import numpy as np

    from tfbrats.cases import case, nifti
    from tfbrats.datasets.layouts import CaseFiles
    from tfbrats.errors import InputError
    from tfbrats.labels import EDITIONS

    good, path = folder / "good.nii", folder / "scan.nii.gz"
    good.write_bytes(_nifti())
    scans = (("flair", str(good), None), ("t1", str(path), None))
    entry = CaseFiles("case", "case", "none", EDITIONS["2020"], scans, str(path))

    def attempt(content: bytes) -> None:
        content = _packed_by(content[0], content[1:]) if content else content
        path.write_bytes(content)
        for read in (nifti.read_grid, lambda path: nifti.read_stored(path.read_bytes(), "scan.nii.gz")):
            with contextlib.suppress(InputError):
                read(path)
        with contextlib.suppress(InputError):
            volume = nifti.read(path)
            if volume.array.nbytes > 64 * len(content) * 1032:
                raise Fault(f"{volume.array.nbytes} bytes of {len(content)}")
        with contextlib.suppress(InputError):
            loaded = case.load(entry, ("flair", "t1"))
            if loaded.image.dtype.kind == "f" and not np.isfinite(loaded.image).all():
                raise Fault("a case with values that are no numbers")

    yield attempt


def _dicoms() -> list[bytes]:
    """A single-frame file of each series, and an enhanced one."""
    import tempfile

    import dicom_files

    with tempfile.TemporaryDirectory() as place:
        folder, images = pathlib.Path(place), dicom_files.scans((8, 7, 3))
        dicom_files.write(folder / "single", images["t1"], dicom_files.affine(), 11, "AX T1")
        dicom_files.write(folder / "enhanced", images["t2"], dicom_files.affine(), 12, "AX T2", enhanced=True)
        return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


@contextlib.contextmanager
def _dicom(folder: pathlib.Path) -> Iterator[Try]:
    """A file among a series' own, or alone: found, placed, decoded, made a case of, written onto."""
    import dicom_files
    import numpy as np

    from tfbrats.dicom import geometry, headers, parsing, pixels, segmentation_object, study
    from tfbrats.errors import InputError
    from tfbrats.labels import EDITIONS

    images = dicom_files.scans((8, 7, 3))
    dicom_files.write(folder / "t1", images["t1"], dicom_files.affine(), 11, "AX T1", shuffled=False)
    (folder / "alone").mkdir()
    among, alone = folder / "t1" / "IM0001", folder / "alone" / "IM0001.dcm"
    read = (
        lambda: study.find(folder / "t1"),
        lambda: study.named({"t1": str(folder / "t1"), "t2": str(alone)}),
        lambda: object_on(study.alone(str(alone), "--dicom-seg")),
    )
    algorithm = segmentation_object.Algorithm("tiny", "1", "tests", {})

    def object_on(series) -> None:
        tissues = np.zeros(series.grid.from_file(np.empty(series.grid.file_shape, bool)).shape, np.uint8)
        segmentation_object.content(series, tissues, series.grid, EDITIONS["2021"], algorithm)

    @parsing.unwarned()
    def volumes(place: pathlib.Path) -> None:
        for series in headers.series_below(place):
            with contextlib.suppress(InputError):
                array, _ = pixels.volume(series, geometry.of(series))
                if array.dtype.kind not in "if":
                    raise Fault(f"voxels of {array.dtype}")

    def attempt(content: bytes) -> None:
        alone.write_bytes(content)
        with contextlib.suppress(InputError):
            volumes(alone)
        try:
            if not headers.series_below(alone):
                raise Fault("nothing lies there, and nothing was said")
        except InputError:  # what stands behind need not be tried: it reads the same headers first
            return
        among.write_bytes(content)
        with contextlib.suppress(InputError):
            volumes(folder / "t1")
        for way in read:
            with contextlib.suppress(InputError):
                way()

    yield attempt


# --- what a model is ------------------------------------------------------------------------------------


def _cards() -> list[bytes]:
    import tiny_model

    return [
        tiny_model.card().to_file(),
        tiny_model.old_text(tiny_model.card(n4=tiny_model.of_caller("t1"))).encode(),
    ]


@contextlib.contextmanager
def _card(folder: pathlib.Path) -> Iterator[Try]:
    """A model's tfbrats.json, and what is asked of it before a case is sent."""
    import numpy as np

    from tfbrats.errors import InputError
    from tfbrats.predictions import model_card

    labels = np.array([[[0, 1, 2, 4]]], np.uint8)

    def attempt(content: bytes) -> None:
        with contextlib.suppress(InputError):
            card = model_card.parse(content, "models/tiny/1")
            assert card.to_file() == content
            model_card.outputs(card, "int16", True, True)
            model_card.tissues(card, labels, "case")
            texts = (card.averaged and card.averaged.text, card.tuned and card.tuned.text, card.n4_of_caller)
            assert texts is not None

    yield attempt


_PARTS = (
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "tfbrats.json",
)


def _damages() -> list[bytes]:
    """Which file, where in it (a share of 2**32), how many bytes are cut out, and what comes in their place."""
    draw = random.Random(0)
    made = [
        struct.pack("<BIH", n % 4, draw.randrange(2**32), draw.randrange(6)) + draw.randbytes(4)
        for n in range(60)
    ]
    return made + [struct.pack("<BIH", n, 0, 2**16 - 1) for n in range(4)]


@contextlib.contextmanager
def _model(folder: pathlib.Path) -> Iterator[Try]:
    """A version's folder with one of its files damaged: loaded as `predict` loads it, and run."""
    import numpy as np
    import tiny_model

    from tfbrats.errors import InputError
    from tfbrats.inference.saved_segmenter import SavedSegmenter
    from tfbrats.labels import MODALITIES

    version = tiny_model.write(folder / "tiny")
    (version / "tfbrats.json").write_bytes(tiny_model.card().to_file())
    sound = {name: (version / name).read_bytes() for name in _PARTS}
    inputs = {name: np.full((4, 4, 3), 900, np.int16) for name in MODALITIES}

    def attempt(content: bytes) -> None:
        damaged = dict(sound)
        head = struct.calcsize("<BIH")
        while len(content) >= head:
            which, where, cut = struct.unpack("<BIH", content[:head])
            name = _PARTS[which % len(_PARTS)]
            size = content[head] % 16 if content[head:] else 0
            new, content = content[head + 1 : head + 1 + size], content[head + 1 + size :]
            place = where * len(damaged[name]) >> 32
            damaged[name] = damaged[name][:place] + new + damaged[name][place + cut :]
        for name, bytes_of in damaged.items():
            (version / name).write_bytes(bytes_of)
        with contextlib.suppress(InputError):
            segmenter = SavedSegmenter(version)
            try:
                _run(segmenter, inputs)
            finally:
                segmenter._saved.close()

    yield attempt


def _run(segmenter, inputs) -> None:
    import tensorflow as tf

    # What a graph of somebody else does is its own affair, as long as it ends in one of TensorFlow's errors.
    with contextlib.suppress(tf.errors.OpError, TypeError, ValueError, KeyError):
        segmenter._saved("int16", inputs, ["segmentation"], 20)


# --- the wire -------------------------------------------------------------------------------------------


def _planes() -> list[bytes]:
    """I, J, and slices: each its length and its bytes."""
    import numpy as np

    from tfbrats.machine import packing

    seeds = []
    for shape in ((6, 5, 4), (1, 1, 1), (40, 3, 2)):
        slices = packing.packed(np.arange(np.prod(shape)).reshape(shape).astype(np.int16))
        body = b"".join(struct.pack("<H", len(one)) + one for one in slices)
        seeds.append(struct.pack("<hh", *shape[:2]) + body)
    return seeds


@contextlib.contextmanager
def _unpacking(folder: pathlib.Path) -> Iterator[Try]:
    """Compressed slices in the graph: as the standard library unpacks them, or refused."""
    import numpy as np
    import tensorflow as tf

    from tfbrats.graphs import packing_graph

    specs = tf.TensorSpec([None], tf.string), tf.TensorSpec([2], tf.int32)
    unpacked = tf.function(packing_graph.unpacked).get_concrete_function(*specs)

    def attempt(content: bytes) -> None:
        plane, slices = struct.unpack("<hh", content[:4].ljust(4, b"\1")), []
        content = content[4:]
        while len(content) >= 2:
            size = struct.unpack("<H", content[:2])[0]
            slices.append(content[2 : 2 + size])
            content = content[2 + size :]
        try:
            volume = unpacked(
                tf.constant(slices, tf.string, [len(slices)]), tf.constant(plane, tf.int32)
            ).numpy()
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
            return
        seconds = [_gunzipped(one) for one in slices]
        if volume.shape != (*plane, len(slices)):
            raise Fault(f"shape {volume.shape} of {len(slices)} slices of {plane}")
        for k, second in enumerate(seconds):
            if second is not None and np.ascontiguousarray(volume[..., k]).tobytes() != second:
                raise Fault(f"slice {k} is not what the standard library unpacks")

    yield attempt


def _calls() -> list[bytes]:
    import abuse
    import numpy as np

    random_of, made = np.random.default_rng(0), []
    paths = (abuse.PREDICT, abuse.METADATA, abuse.STATUS)
    for signature in ("serving_default", "int16", "gzip_int16", "cases_int16"):
        made.append(abuse.predict(abuse.inputs(abuse.images(random_of), signature), signature))
    made += [kind.make(random_of) for kind in abuse.KINDS.values() for _ in range(3)]
    good = [call for call in made if call.path in paths and len(call.content) < 2**14]
    return [bytes([paths.index(call.path)]) + call.content for call in good]


@contextlib.contextmanager
def _request(folder: pathlib.Path) -> Iterator[Try]:
    """A message to the embedded server, over gRPC."""
    import abuse
    import grpc
    import numpy as np
    import tiny_model

    from serving import server

    tiny_model.write(folder / "tiny")
    ends = frozenset().union(*(kind.ends_in for kind in abuse.KINDS.values()))
    good = abuse.predict(abuse.inputs(abuse.images(np.random.default_rng(1))))
    paths = (abuse.PREDICT, abuse.METADATA, abuse.STATUS)
    with (
        server.start(folder / "tiny", poll_s=600) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        calls = [channel.unary_unary(path) for path in paths]
        asked = iter(range(2**62))

        def attempt(content: bytes) -> None:
            try:
                calls[content[0] % 3 if content else 0](content[1:], timeout=_CALL_S)
            except grpc.RpcError as error:
                spun = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and b"spin" in content
                if (error.code() not in ends and not spun) or not error.details():
                    raise Fault(f"{error.code().name}: {error.details()}") from error
            if next(asked) % 64 == 0:
                calls[0](good.content, timeout=_CALL_S)

        yield attempt


def _answers() -> list[bytes]:
    import numpy as np
    import tiny_model

    from serving import messages

    arrays = {"content": tiny_model.card().to_file(), "segmentation": np.zeros((3, 2, 2), np.uint8)}
    predicted = messages.PredictResponse()
    for name, array in arrays.items():
        predicted.outputs[name].CopyFrom(messages.to_tensor(array))
    by_value = messages.PredictResponse()
    by_value.outputs["content"].CopyFrom(messages.to_tensor("{}"))
    by_value.outputs["segmentation"].CopyFrom(
        messages.Tensor(dtype=4, tensor_shape={"dim": [{"size": 3}, {"size": 2}]}, int_val=[1, 2])
    )
    offered = messages.Signatures()
    offered.signature_def["int16"].inputs["t1"].dtype = 5
    told = messages.MetadataResponse()
    told.metadata["signature_def"].value = offered.SerializeToString()
    contents = [predicted.SerializeToString(), by_value.SerializeToString(), told.SerializeToString()]
    return [bytes([which]) + content for content in contents for which in (0, 1)]


@contextlib.contextmanager
def _answer(folder: pathlib.Path) -> Iterator[Try]:
    """What a server that is none of ours answers our client."""
    from concurrent import futures

    import grpc

    from serving.connection import Client
    from tfbrats.errors import InputError

    answer = [b""]
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: answer[0])

    class All(grpc.GenericRpcHandler):
        def service(self, details):
            return handler

    running = grpc.server(futures.ThreadPoolExecutor(2), handlers=[All()])
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    client = Client(f"127.0.0.1:{port}/tiny", timeout_s=_CALL_S)

    def attempt(content: bytes) -> None:
        answer[0], client._fetched = content[1:], None
        with contextlib.suppress(InputError):
            if content[:1] and content[0] % 2:
                client._calls.signatures(None, client._calls.deadline())
            else:
                client.card()
        with contextlib.suppress(InputError):
            client._calls.predict({}, "int16", ("segmentation",), None, client._calls.deadline())

    try:
        yield attempt
    finally:
        client.close()
        running.stop(0)


# --- the page -------------------------------------------------------------------------------------------

_NAMES = ("t1.nii.gz", "t1.nii", "IM0001", "a/IM0001.dcm", "dataset.json", "name_mapping.csv", "flair.nii.gz")


def _uploads() -> list[bytes]:
    """Number of a name, or 255, a length and a name; then the bytes of the file."""
    tables = [
        b'{"channel_names": {"0": "T1"}, "labels": {"background": 0}}',
        b"BraTS_2020_subject_ID,Grade\nx,HGG\n",
    ]
    named = [(0, gzip.compress(_nifti(), 1)), (1, _nifti()), *((2, one) for one in _dicoms()), (4, tables[0])]
    seeds = [
        bytes([number]) + content for number, content in [*named, (5, tables[1]), (6, gzip.compress(_nifti()))]
    ]
    own = [b"a/../t1.nii", "ä/t1.nii".encode(), b"imagesTr/a_0000.nii.gz", b"memory://t1.nii"]
    return seeds + [bytes([255, len(name)]) + name + _nifti() for name in own]


@contextlib.contextmanager
def _upload(folder: pathlib.Path) -> Iterator[Try]:
    """A file sent to the page, and the look at what lies there then."""
    from serving.page import intake, sessions, uploads
    from serving.page.limits import MIB, Limits, RefusedError
    from tfbrats.errors import InputError

    limits = Limits(voxels=100_000, unpacked_bytes=MIB, file_bytes=4 * MIB, session_bytes=16 * MIB, files=20)
    own = folder / "server"
    own.mkdir()

    async def pieces(content: bytes):
        for start in range(0, len(content), 999):
            yield content[start : start + 999]

    def attempt(content: bytes) -> None:
        number, content = (content[0], content[1:]) if content else (0, b"")
        if number == 255 and content:
            size = content[0]
            name, content = content[1 : 1 + size].decode(errors="surrogateescape"), content[1 + size :]
        else:
            name = _NAMES[number % len(_NAMES)]
        session = sessions.Session(str(own), limits)
        session.files.clear()
        try:
            with contextlib.suppress(RefusedError):
                asyncio.run(uploads.receive(session, name, len(content), pieces(content), limits))
            with contextlib.suppress(RefusedError):
                described = intake.described(session)
                json.dumps(described)
                for case in described["cases"]:
                    with contextlib.suppress(InputError):
                        intake.chosen(session, case["id"], None)
            lying = {
                os.path.relpath(os.path.join(at, one), session.scans)
                for at, _, some in os.walk(own)
                for one in some
            }
            if lying != set(session.files):
                raise Fault(f"{sorted(lying)} lie there, and {sorted(session.files)} are told")
        finally:
            session.ended = True
            session.clear()
        if list(own.iterdir()) or sorted(one.name for one in folder.iterdir()) != ["server"]:
            shutil.rmtree(own)
            raise Fault("something is left, or lies elsewhere")

    yield attempt


def _heads() -> list[bytes]:
    """Method, path and headers as lines, then the body."""
    own = "Host: 127.0.0.1:8600\nOrigin: http://127.0.0.1:8600\n"
    sound = [
        f"GET / \n{own}Cookie: tfbrats_8600=a-token-of-24-signs-\n\n",
        f"POST /login \n{own}\n" + '{"token": "a-token-of-24-signs-"}',
        f"POST /sessions \n{own}Cookie: tfbrats_8600=a-token-of-24-signs-\n\n",
        f"GET /sessions/x/download/pdf \n{own}Sec-Fetch-Site: same-origin\n\n",
        f"POST /sessions/SESSION/segment \n{own}\n" + '{"case": null, "scans": {"t1": "t1.nii"}}',
        f"PUT /sessions/SESSION/file name=t1.nii\n{own}Content-Length: 3\n\nabc",
        f"GET /sessions/SESSION/scans \n{own}\n",
        f"DELETE /sessions/SESSION/file name=t1.nii\n{own}\n",
    ]
    return [text.encode() for text in sound]


@contextlib.contextmanager
def _head(folder: pathlib.Path) -> Iterator[Try]:
    """A request to the page behind its HTTP reader: the guard, the addresses, bodies that are JSON."""
    from serving.page import guard, sessions
    from serving.page.application import Application
    from serving.page.limits import Limits

    class Work:
        def model(self):
            return {}

        def begin(self, *_):
            pass

        try_phantom = begin

    limits, token, cookie = Limits(sessions=10**9), "a-token-of-24-signs-", "tfbrats_8600"
    known = sessions.Sessions(str(folder), limits)
    session = known.begin()
    inner = Application(known, Work(), limits, token, cookie, False).starlette()
    app = guard.Guard(inner, ["127.0.0.1:8600"], "http", token, cookie)

    async def asked(scope, body: bytes) -> list:
        sent, left = [], [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            return left.pop() if left else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        return sent

    def attempt(content: bytes) -> None:
        content = content.replace(b"SESSION", session.id.encode())
        head, _, body = content.partition(b"\n\n")
        first, *lines = head.split(b"\n")
        method, path, query, *_ = (*first.split(b" "), b"", b"", b"")
        headers = [(n.strip().lower(), v.strip()) for n, _, v in (line.partition(b":") for line in lines)]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method.decode("latin-1").upper(),
            "path": path.decode(errors="replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8600),
        }
        messages = asyncio.run(asked(scope, body))
        status = messages[0]["status"]
        if status >= 500:
            raise Fault(f"status {status}")
        names = {name.lower() for name, _ in messages[0]["headers"]}
        if b"content-security-policy" not in names:
            raise Fault("an answer without a policy")
        cookies = b"; ".join(value for name, value in headers if name == b"cookie")
        if (
            status == 200
            and path.startswith(b"/sessions")
            and token.encode() not in cookies
            and b"\\" not in cookies
        ):
            raise Fault("let in without the token")
        if known.of(session.id) is not session:
            raise Fault("the session is another")

    try:
        yield attempt
    finally:
        known.end_all()


TARGETS = {
    "gunzip": Target(
        _gunzip, lambda: [_packed_by(n, c) for n in range(4) for c in _niftis()[:3]], ("tfbrats.machine",)
    ),
    "scan": Target(
        _scan,
        lambda: [bytes([way]) + content for content in _niftis() for way in (0, 1)],
        ("tfbrats.machine", "tfbrats.cases", "nibabel"),
    ),
    "dicom": Target(_dicom, _dicoms, ("tfbrats.dicom", "pydicom")),
    "card": Target(_card, _cards, ("tfbrats.predictions", "tfbrats.labels", "json")),
    "model": Target(_model, _damages, ("tfbrats.inference", "tfbrats.predictions")),
    "unpacking": Target(_unpacking, _planes, ("tfbrats.graphs",)),
    "request": Target(_request, _calls, ("serving",)),
    "answer": Target(_answer, _answers, ("serving", "tfbrats.predictions")),
    "upload": Target(
        _upload, _uploads, ("serving.page", "tfbrats.dicom", "tfbrats.datasets", "tfbrats.cases", "pydicom")
    ),
    "head": Target(_head, _heads, ("serving.page", "http.cookies", "starlette")),
}

"""Sends cases to a model server and writes its segmentations: NIfTI in, NIfTI out. Imports no TensorFlow.

    python -m serving.client --server localhost:8500 --model cun --input CASE_DIR --output seg.nii.gz
    python -m serving.client --server localhost:8500 --model cun --input DATASET_DIR --output OUT_DIR/

Works against TensorFlow Serving and against the embedded server alike. The model says of itself what it
wants (tfbrats.json, by its signature `describe`): which modalities, which of them bias-corrected (N4, done
here), which values it labels with. The segmentation is written in the case's own labels and header.
Not for clinical use.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import tenacity
import tqdm

from serving import messages
from tfbrats import case as cases
from tfbrats import command, files, labels, layouts, model_card
from tfbrats.case import Case
from tfbrats.command import InputError
from tfbrats.model_card import ModelCard

DESCRIBE = "describe"

# gRPC refuses answers over 4 MiB unless told otherwise; a label map of BraTS is 8.9 MB.
_UNLIMITED = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_MOST_SWAPS = 3  # how often a model may change under one case before that is called a fault


class ServerError(InputError):
    """The server did not answer as asked. `code` is the gRPC status."""

    def __init__(self, text: str, code: grpc.StatusCode):
        super().__init__(text)
        self.code = code


# Faults of the server or of what was asked of it, not of the one case sent.
_CONCERNS_ALL = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}


@dataclass(frozen=True)
class Segmentation:
    """What the model makes of a case.

    Attributes:
        tissues: `labels.Tissue`, uint8 [I, J, K].
        probabilities: float32 [I, J, K, regions] in the card's order (WT, TC, ET), or None if not asked.
        model_version: that the server ran.
        tiles: int32 [3], how many each stage of a cascade ran; None for models that are none.
    """

    tissues: np.ndarray
    probabilities: np.ndarray | None
    model_version: int
    tiles: np.ndarray | None


class Client:
    """A connection to one model on one server. Threads may share it. Use it as a context manager.

    Args:
        address: host:port of the gRPC service.
        model: name the server knows it by.
        version: None for the one the server thinks latest.
        timeout_s: for one case, retries included.
        credentials: `grpc.ssl_channel_credentials(...)`; None sends in the clear.
        connect_timeout_s: how long a server may not be there.
        card: what the model is, if it does not say so itself.
    """

    def __init__(
        self,
        address: str,
        model: str,
        version: int | None = None,
        timeout_s: float = 600,
        credentials: grpc.ChannelCredentials | None = None,
        connect_timeout_s: float = 10,
        card: ModelCard | None = None,
    ):
        self.address = address
        self.model = model
        self.version = version
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._encrypted = credentials is not None
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=_UNLIMITED)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=_UNLIMITED)
        self._predict = self._channel.unary_unary(
            messages.PREDICT,
            request_serializer=messages.PredictRequest.SerializeToString,
            response_deserializer=messages.PredictResponse.FromString,
        )
        # Whatever it answers, "no such service" included, somebody is there. (`channel_ready_future` would
        # do, but its thread complains when the channel is closed.)
        self._health = self._channel.unary_unary("/grpc.health.v1.Health/Check")
        self._given_card = card
        self._fetched: tuple[int, ModelCard] | None = None  # version it was fetched from

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def card(self) -> ModelCard:
        """What the model says of itself (fetched once), or the card that was given.

        Raises:
            ServerError: no server, no such model, or one that was not exported by tfbrats.
        """
        if self._given_card is not None:
            return self._given_card
        if self._fetched is None:
            outputs, version = self.predict({"file": model_card.FILE}, DESCRIBE, ("content",))
            where = f"{self._what()} version {version}: {model_card.FILE}"
            self._fetched = version, model_card.parse(outputs["content"].item(), where)
        return self._fetched[1]

    def segment(self, case: Case, probabilities: bool = False, signature: str | None = None) -> Segmentation:
        """The segmentation of a whole case. Runs N4 here first where the model wants it (slow).

        Args:
            case: loaded with the card's modalities.
            probabilities: ask for them too; they are 12 times the label map's bytes.
            signature: None for int16 where the case holds whole numbers, else float32.

        Raises:
            ServerError: as the server answered.
            InputError: the case lacks a modality, or the answer does not fit the case.
        """
        for _ in range(_MOST_SWAPS):
            card = self.card()
            inputs, chosen = _inputs(card, case, signature)
            offered = card.signatures.get(chosen, {}).get("outputs", {})
            wanted = ["segmentation", *(["probabilities"] if probabilities else [])]
            wanted += [model_card.TILES] if model_card.TILES in offered else []
            outputs, version = self.predict(inputs, chosen, wanted)
            if self._fetched is None or self._fetched[0] == version:
                return self._checked(card, case, outputs, version)
            # The server took up another version in between, which may want other inputs.
            self._fetched = None
        raise ServerError(
            f"{self._what()}: another version at each call. Name one with --version.",
            grpc.StatusCode.FAILED_PRECONDITION,
        )

    def _checked(
        self, card: ModelCard, case: Case, outputs: Mapping[str, np.ndarray], version: int
    ) -> Segmentation:
        shape = case.image.shape[:3]
        where = f"{self._what()} version {version}, case {case.case_id}"
        expected = {
            "segmentation": (np.uint8, shape),
            "probabilities": (np.float32, (*shape, len(card.regions))),
            model_card.TILES: (np.int32, (len(card.regions),)),
        }
        for name, array in outputs.items():
            dtype, wanted = expected[name]
            if array.dtype != dtype or array.shape != wanted:
                raise InputError(
                    f"{where}: {name} came as {array.dtype} {array.shape}; expected {np.dtype(dtype)} "
                    f"{wanted}. Was the model exported by tfbrats?"
                )
        tissues = model_card.tissues(card, outputs["segmentation"], where)
        return Segmentation(tissues, outputs.get("probabilities"), version, outputs.get(model_card.TILES))

    def predict(
        self, inputs: Mapping[str, np.ndarray | str], signature: str, outputs: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], int]:
        """One Predict call: the named outputs of a signature, and the version that made them.

        A server that goes away in between is tried again, with backoff, until the timeout.

        Raises:
            ServerError: the server's status, with what to do.
        """
        request = messages.PredictRequest(output_filter=outputs)
        request.model_spec.name = self.model
        request.model_spec.signature_name = signature
        if self.version is not None:
            request.model_spec.version.value = self.version
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(messages.to_tensor(array))
        deadline = time.monotonic() + self._timeout_s
        # gRPC's own retries skip messages over 256 KiB.
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_unavailable),
            wait=tenacity.wait_exponential(multiplier=0.2, max=5) + tenacity.wait_random(0, 0.2),
            stop=tenacity.stop_after_delay(self._timeout_s),
            reraise=True,
        )
        try:
            response = attempts(self._call, request, deadline)
        except grpc.RpcError as error:
            raise self._explained(error, signature) from error
        answer = {}
        for name in outputs:
            if name not in response.outputs:
                raise InputError(f"{self._what()}: the answer lacks {name}. Was it exported by tfbrats?")
            try:
                answer[name] = messages.to_array(response.outputs[name])
            except ValueError as error:
                raise InputError(f"{self._what()}: {name} cannot be read: {error}") from error
        return answer, response.model_spec.version.value

    def _call(self, request, deadline: float):
        self._wait_for_server(deadline)
        return self._predict(request, timeout=_left(deadline), wait_for_ready=True)

    def _wait_for_server(self, deadline: float) -> None:
        seconds = min(_left(deadline), self._connect_timeout_s)
        try:
            self._health(b"", timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                return  # no health service, but somebody who says so
            tls = "" if self._encrypted else " If it wants TLS, give --tls_root_certificates."
            raise ServerError(
                f"{self.address}: no gRPC server answers there (waited {seconds:.3g} s). Check host and port "
                "(gRPC's, mostly 8500; not REST's 8501), or start one: `python -m serving.server "
                f"--model_base_path models/{self.model} --port 8500`.{tls}",
                grpc.StatusCode.UNAVAILABLE,
            ) from error

    def _what(self) -> str:
        return f"{self.model} on {self.address}"

    def _explained(self, error: grpc.RpcError, signature: str) -> ServerError:
        code, said = error.code(), error.details()
        asked = self.model if self.version is None else f"{self.model} version {self.version}"
        status = grpc.StatusCode
        if code is status.NOT_FOUND:
            text = (
                f"{self.address} serves no {asked} ({said}). Check --model and --version; the embedded "
                "server calls a model by the last part of its base path."
            )
        elif code is status.FAILED_PRECONDITION and "ignature" in said:
            text = f"{self._what()} has no signature {signature!r} ({said}). " + (
                "It was not exported by tfbrats, or long ago: give its tfbrats.json with --card."
                if signature == DESCRIBE
                else "Leave --signature out, or give serving_default."
            )
        elif code is status.INVALID_ARGUMENT:
            text = f"{self._what()} refuses the inputs: {said}"
        elif code is status.DEADLINE_EXCEEDED:
            text = f"{self._what()} did not answer within {self._timeout_s:g} s. Raise --timeout."
        elif code is status.RESOURCE_EXHAUSTED:
            text = f"{self._what()} has no room for the case now ({said}). Send fewer at once, or later."
        elif code is status.UNAVAILABLE:
            text = f"{self.address}: the server went away ({said}). Look at its log, then try again."
        elif code is status.UNIMPLEMENTED:
            text = f"{self.address} speaks gRPC but is no TensorFlow Serving ({said}). Check host and port."
        else:
            text = f"{self._what()} failed with {code.name}: {said}. Look at the server's log."
        return ServerError(text, code)


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE


def _inputs(card: ModelCard, case: Case, signature: str | None) -> tuple[dict[str, np.ndarray], str]:
    """The signature to call and its inputs by modality name."""
    arrays = model_card.inputs(card, case)
    natural = model_card.signature_for(arrays)
    chosen = signature or natural
    if chosen == natural:
        return arrays, chosen
    if chosen == "int16":
        raise InputError(
            f"{case.case_id}: holds fractions (its files do, or N4 made them), which signature int16 cannot "
            f"take. Leave --signature out, or give {natural}."
        )
    return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}, chosen


# --- command --------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("serving.client", __doc__)
    parser.add_argument("--server", default="localhost:8500", help="host:port (default: %(default)s)")
    parser.add_argument("--model", required=True, help="the name it is served by, e.g. cun")
    parser.add_argument("--version", type=int, help="default: the latest")
    parser.add_argument("--input", required=True, help="a case's folder, or one with many cases")
    parser.add_argument(
        "--output",
        required=True,
        help="seg.nii.gz; or a folder (existing, or ending in /) for CASE_ID.nii.gz of every case",
    )
    parser.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    parser.add_argument("--edition", help="of the input's labels, if its names do not say")
    parser.add_argument("--card", help="tfbrats.json of the model, if the server cannot hand it out")
    parser.add_argument("--signature", help="default: int16 for whole numbers, else serving_default")
    parser.add_argument("--probabilities", metavar="FILE", help="write WT, TC, ET as 4-D FILE.nii.gz too")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a case (default: %(default)s)")
    parser.add_argument(
        "--connect_timeout",
        type=float,
        default=10,
        help="seconds to wait for a server that is not there (default: %(default)s)",
    )
    parser.add_argument("--tls_root_certificates", metavar="FILE", help="PEM; speak TLS, trust these")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    return parser


def _to_folder(given: argparse.Namespace) -> bool:
    return given.output.endswith(("/", os.sep)) or files.is_folder(given.output)


def _targets(given: argparse.Namespace) -> dict[str, layouts.CaseFiles]:
    """Output path -> case, for all that is to be done; refuses what cannot be meant."""
    dataset = layouts.find(given.input, given.edition)
    found = {entry.case_id: entry for entry in layouts.select(dataset, given.case)}
    if _to_folder(given):
        if given.probabilities:
            raise InputError("--probabilities goes with one case: give --output FILE.nii.gz and --case.")
        files.check_can_hold(given.output)
        targets = {files.join(given.output, f"{name}.nii.gz"): entry for name, entry in found.items()}
        layouts.check_outputs(tuple(found.values()), list(targets))
        return targets
    for path in filter(None, (given.output, given.probabilities)):
        if layouts.nifti_stem(path) is None:
            raise InputError(f"{path}: an output ends in .nii.gz or .nii; a folder ends in /.")
        if files.exists(path) and not given.overwrite:
            raise InputError(f"{path} exists. Give another name, or --overwrite.")
        layouts.check_outputs(tuple(found.values()), [path])
        files.check_can_hold(files.parent(path) or ".")
    if given.probabilities and files.canonical(given.probabilities) == files.canonical(given.output):
        raise InputError(f"{given.output}: named by --output and by --probabilities. Give two names.")
    if len(found) > 1:
        raise InputError(
            f"{given.input}: {len(found)} cases for one output file: {_listed(found)}. Name one with "
            "--case, or give a folder as --output (ending in /)."
        )
    return {given.output: next(iter(found.values()))}


def _listed(names: Sequence[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _segment_one(
    client: Client, begun_with: ModelCard, entry: layouts.CaseFiles, output: str, given: argparse.Namespace
) -> str:
    """Reads, sends and writes one case; one line that says what came out."""
    start = time.monotonic()
    # image: 240 x 240 x 155 x 4
    case = cases.load(entry, client.card().modalities, read_label=False)
    result = client.segment(case, bool(given.probabilities), given.signature)
    if _to_folder(given):
        if client.card() != begun_with:
            raise ServerError(
                f"{given.output}: version {client.card().version} of {client.model} took over; the results so "
                f"far are of version {begun_with.version}. Pass --version, or --overwrite to do all again.",
                grpc.StatusCode.FAILED_PRECONDITION,
            )
        # With the first result, so that a run without any leaves nothing.
        model_card.keep(begun_with, given.output)
    cases.save_segmentation(output, result.tissues, case.grid, case.schema)
    if given.probabilities:
        cases.save_probabilities(given.probabilities, result.probabilities, case.grid)
    voxel_ml = float(np.prod(case.spacing_mm)) / 1000
    volumes = ", ".join(
        f"{name} {labels.region_mask(result.tissues, name).sum() * voxel_ml:.1f} ml" for name in labels.REGIONS
    )
    return (
        f"{case.case_id}: {volumes} by {client.model} version {result.model_version} "
        f"in {time.monotonic() - start:.1f} s -> {output}"
        + ("" if result.tiles is None else f"\n    {model_card.tiles_line(result.tiles)}")
    )


def main(arguments: Sequence[str]) -> int | None:
    given = _parser().parse_args(arguments)
    targets = _targets(given)
    todo = {path: entry for path, entry in targets.items() if given.overwrite or not files.exists(path)}
    if len(todo) < len(targets):
        print(f"{len(targets) - len(todo)} of {len(targets)} cases are done already (--overwrite redoes them)")
    credentials = None
    if given.tls_root_certificates:
        credentials = grpc.ssl_channel_credentials(files.read_bytes(given.tls_root_certificates))
    card = model_card.parse(files.read_bytes(given.card), given.card) if given.card else None
    faults = []
    with Client(
        given.server, given.model, given.version, given.timeout, credentials, given.connect_timeout, card
    ) as client:
        if todo and client.card().n4_modalities:
            print(
                f"The model wants N4 bias correction of {', '.join(client.card().n4_modalities)}: done here, "
                "some seconds each",
                flush=True,
            )
        begun_with = client.card()
        folder = given.output if _to_folder(given) else files.parent(given.output) or "."
        model_card.check_results(begun_with, folder, given.overwrite, list(targets))
        # Quiet when it is not a terminal, and for one case.
        bar = tqdm.tqdm(todo.items(), unit="case", disable=True if len(targets) == 1 else None)
        for path, entry in bar:
            try:
                bar.write(_segment_one(client, begun_with, entry, path, given))
            except InputError as error:
                concerns_all = isinstance(error, model_card.OtherModelError)
                if len(targets) == 1 or concerns_all or getattr(error, "code", None) in _CONCERNS_ALL:
                    raise
                text = str(error)
                faults.append(text if entry.case_id in text else f"{entry.case_id}: {text}")
    if faults:
        print(f"{len(faults)} of {len(todo)} cases failed:\n  " + "\n  ".join(faults))
        return 1
    return None


if __name__ == "__main__":
    command.run(main)

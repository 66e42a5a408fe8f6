"""A case as a request to a model on a server, and its answer checked. No network, no TensorFlow."""

import os
from collections.abc import Mapping
from concurrent import futures
from dataclasses import dataclass

import numpy as np

from tfbrats.cases.case import Case
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.errors import InputError
from tfbrats.machine import memory, packing
from tfbrats.predictions import model_card, own_scans, results
from tfbrats.predictions.model_card import ModelCard

_GZIP = "gzip_int16"

Inputs = Mapping[str, np.ndarray | str | bytes]  # a signature's, by name


@dataclass(frozen=True)
class Segmentation(results.Segmentation):
    """What the model makes of a case.

    Attributes:
        model_version: that the server ran.
        request_id: of its calls, as the server's log names them.
    """

    model_version: int


class CaseRequest:
    """A case as a model wants it; made anew only for a model that wants it otherwise.

    Args:
        signature: to call; None for the one with the fewest bytes that loses nothing.
        probabilities, uncertainty: ask for them too.
        request_id: sent with each of its calls.
    """

    def __init__(
        self,
        case: Case,
        signature: str | None = None,
        probabilities: bool = False,
        uncertainty: bool = False,
        request_id: str = "",
    ):
        self.case = case
        self.id = request_id
        self._signature = signature
        self._more = probabilities, uncertainty
        self._made: tuple[tuple, tuple[Inputs, str]] | None = None  # what a card wants, and what it got

    def inputs(self, card: ModelCard) -> tuple[Inputs, str]:
        """The inputs of the signature to call, by name, and the signature. Runs N4 where the graph does not.

        Raises:
            InputError: the case lacks a modality, or does not fit the signature that was asked for.
        """
        wants = (card.modalities, card.n4, _GZIP in card.signatures)
        if self._made is None or self._made[0] != wants:
            self._made = wants, _inputs(card, self.case, self._signature)
        return self._made[1]

    def outputs(self, card: ModelCard, signature: str) -> list[str]:
        """What to ask the signature for."""
        return model_card.outputs(card, signature, *self._more)

    def answer(
        self, card: ModelCard, outputs: Mapping[str, np.ndarray], version: int, model: str
    ) -> Segmentation:
        """The segmentation that a model's outputs are.

        Args:
            version: that made them.
            model: what it is called in a message.

        Raises:
            InputError: an output is not of the case's shape or not of its type, or holds a value that the card
                has no tissue for.
        """
        shape = self.case.image.shape[:3]
        where = f"{model} version {version}, case {self.case.case_id}"
        expected = {
            "segmentation": (np.uint8, shape),
            "probabilities": (np.float32, (*shape, len(card.regions))),
            model_card.ENTROPY: (np.uint8, (*shape, len(card.regions))),
            model_card.TILES: (np.int32, (len(card.regions),)),
        }
        for name, array in outputs.items():
            dtype, expected_shape = expected[name]
            if array.dtype != dtype or array.shape != expected_shape:
                raise InputError(
                    f"{where}: {name} came as {array.dtype} {array.shape}; expected {np.dtype(dtype)} "
                    f"{expected_shape}. Was the model exported by tfbrats?"
                )
        tissues = model_card.tissues(card, outputs["segmentation"], where)
        tiles = outputs.get(model_card.TILES)
        entropy = outputs.get(model_card.ENTROPY)
        return Segmentation(
            *(tissues, outputs.get("probabilities"), tiles, card, version),
            entropy=entropy,
            request_id=self.id,
        )


def _inputs(card: ModelCard, case: Case, signature: str | None) -> tuple[Inputs, str]:
    arrays = model_card.inputs(card, case)
    natural = model_card.signature_for(arrays)
    chosen = signature or natural
    if signature is None and natural == "int16" and _GZIP in card.signatures:
        chosen = _GZIP
    if chosen == "serving_default":
        return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}, chosen
    if chosen not in ("int16", _GZIP):
        raise InputError(
            f"--signature {chosen}: takes no whole case. Leave it out, or give serving_default, int16 or "
            f"{_GZIP}."
        )
    if natural != "int16":
        raise InputError(
            f"{case.case_id}: holds fractions (its files do, or N4 made them), which signature {chosen} cannot "
            f"take. Leave --signature out, or give {natural}."
        )
    return (arrays if chosen == "int16" else _packed(arrays)), chosen


def _packed(arrays: Mapping[str, np.ndarray]) -> Inputs:
    """int16 [I, J, K] by modality as gzip_int16 takes them: each compressed, and the size of a plane."""
    plane = np.array(next(iter(arrays.values())).shape[:2], np.int32)
    # Compressing frees the GIL: 0.05 s in place of 0.09 s on two cores.
    with futures.ThreadPoolExecutor(min(len(arrays), memory.cores())) as pool:
        packed = dict(zip(arrays, pool.map(packing.packed, arrays.values()), strict=True))
    return {"plane": plane, **packed}


def input_types(inputs: Inputs) -> dict[str, str]:
    """Input -> its type as a signature names it, e.g. "int16" or "string"."""
    return {
        name: "string" if isinstance(value, str | bytes) or value.dtype == object else value.dtype.name
        for name, value in inputs.items()
    }


def types_as_text(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in sorted(types.items()))


def only_case(folder: str | os.PathLike) -> CaseFiles:
    """The one case in a folder, which may be a patient's own scans of any names.

    Raises:
        InputError: none, or several.
    """
    cases = own_scans.find(folder).cases
    if len(cases) != 1:
        raise InputError(f"{folder}: expected one case; found {len(cases)}. Give a case's own folder.")
    return cases[0]

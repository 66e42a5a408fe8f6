"""The files of one version of a model: SavedModel, card, warm-up; tried before anybody sees them."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfbrats.config import PatchConfig
from tfbrats.errors import InputError
from tfbrats.exports import bfloat16
from tfbrats.exports.card import card_of
from tfbrats.exports.chosen import Chosen
from tfbrats.exports.rehearsal import OtherAnswerError, rehearse
from tfbrats.inference.cascade_segmenter import CascadeSegmenter
from tfbrats.inference.saved_model import WARM_UP
from tfbrats.inference.signatures import (
    Segmenter,
    Signature,
    Weights,
    networks_of,
    plane,
    signatures_of,
    warm_up_requests,
)
from tfbrats.inference.slice_segmenter import SliceSegmenter
from tfbrats.machine import files, literal
from tfbrats.networks import folding
from tfbrats.predictions import model_card
from tfbrats.predictions.model_card import ModelCard
from tfbrats.records import tfrecord
from tfbrats.training import best_weights, start_weights

_WARM_UP_SLICES = 8


def segmenter_of(chosen: Chosen) -> Segmenter:
    """The best weights of a run with everything round them."""
    networks = {
        region: best_weights.network_of(chosen.config, region, checkpoint, chosen.precision)
        for region, checkpoint in chosen.checkpoints.items()
    }
    return _round(networks, chosen)


def _round(networks: Mapping[str, keras.Model], chosen: Chosen, n4: bool = True) -> Segmenter:
    config, schema = chosen.config, chosen.schema
    bias = (config.preprocess.n4_modalities, config.preprocess.n4_shrink) if n4 else ()
    if isinstance(config, PatchConfig):
        size = config.sampling.patch_size
        return CascadeSegmenter(networks, config.data.modalities, size, config.cascade, schema, *bias)
    return SliceSegmenter(networks[""], config.data.modalities, config.records.slice_shape, schema, *bias)


def folded(segmenter: Segmenter, chosen: Chosen, n4: bool = True) -> tuple[Segmenter, str]:
    """The same segmenter with batch normalisation folded into its networks, and what the card says of it.

    Args:
        n4: False leaves bias correction out.
    """
    networks = networks_of(segmenter)
    found = {region: folding.folded(network) for region, network in networks.items()}
    count = sum(each for _, each in found.values())
    of = sum(
        isinstance(layer, keras.layers.BatchNormalization)
        for network in networks.values()
        for layer in network.layers
    )
    other = _round({region: network for region, (network, _) in found.items()}, chosen, n4)
    return other, f"{count} of {of} folded into the convolutions before them"


def tried_in_bfloat16(chosen: Chosen, segmenter: Segmenter) -> str:
    """What the card says of bfloat16, in which the networks are tried; N4 is left out.

    Args:
        segmenter: `segmenter_of(chosen)`.

    Returns:
        "" for networks narrower than `bfloat16.LEAST_WIDTH`, which are not tried.
    """
    if chosen.config.model.width < bfloat16.LEAST_WIDTH:
        return ""

    def segmenter_in(precision: str) -> Segmenter:
        same = precision == chosen.precision
        found = segmenter if same else segmenter_of(dataclasses.replace(chosen, precision=precision))
        return folded(found, chosen, n4=False)[0]

    return bfloat16.tried(segmenter_in, plane(chosen.config), chosen.precision)


def write(folder: str, chosen: Chosen, segmenter: Segmenter, name: str, version: int) -> None:
    """Writes a version into a folder, and tries it: with batch normalisation folded if the answer stays.

    Args:
        segmenter: `segmenter_of(chosen)`.
        name: of the model.

    Raises:
        InputError: there is no room.
        RuntimeError: it answers otherwise than the Keras model, folded or not.
    """
    in_bfloat16 = tried_in_bfloat16(chosen, segmenter)
    faster, said = folded(segmenter, chosen)
    try:
        _write_and_try(folder, chosen, faster, segmenter, (name, version, said, in_bfloat16))
    except OtherAnswerError as error:
        files.remove(folder)
        said = f"none folded: {str(error).partition('. ')[0]}"
        _write_and_try(folder, chosen, segmenter, segmenter, (name, version, said, in_bfloat16))
    # What the graph has folded and left away: for whoever trains on from this model.
    for region, checkpoint in chosen.checkpoints.items():
        start_weights.write_beside(folder, region, best_weights.network_of(chosen.config, region, checkpoint))


def _write_and_try(
    folder: str, chosen: Chosen, segmenter: Segmenter, trained: Segmenter, told: tuple[str, int, str, str]
) -> None:
    """Writes a version; its answers are held against those of the networks as they were trained.

    Args:
        told: name, version, and the card's `batch_norm` and `bfloat16`.
    """
    name, version, batch_norm, in_bfloat16 = told
    signatures = signatures_of(segmenter, chosen.config, lambda: card.to_json())
    card = card_of(chosen, name, version, signatures, batch_norm, in_bfloat16)
    _save(folder, segmenter, signatures)
    files.write_bytes(os.path.join(folder, model_card.FILE), card.to_json().encode())
    _write_warm_up(folder, card, signatures, plane(chosen.config))
    rehearse(folder, trained, signatures, plane(chosen.config), chosen.precision)


def _save(folder: str, segmenter: Segmenter, signatures: Sequence[Signature]) -> None:
    """Traces the signatures and writes the SavedModel.

    Raises:
        InputError: there is no room.
    """
    output = files.parent(folder)
    functions = {signature.name: signature.traced() for signature in signatures}
    try:
        place = files.join(literal.folder(output), files.name(folder))
        tf.saved_model.save(Weights(segmenter), place, signatures=functions)
    except (tf.errors.ResourceExhaustedError, tf.errors.PermissionDeniedError) as error:
        reason = error.message.splitlines()[0]
        raise InputError(
            f"{output}: the model cannot be written ({reason}). Make room and export again."
        ) from error


def _write_warm_up(folder: str, card: ModelCard, signatures: Sequence[Signature], plane: Sequence[int]) -> None:
    """The requests that a server answers before it serves the version, on a few slices of "brain"."""
    volumes = dict.fromkeys(card.modalities, np.ones((*plane, _WARM_UP_SLICES)))
    requests = warm_up_requests(signatures, card.name, volumes)
    content = b"".join(tfrecord.frame(log.SerializeToString()) for log in requests)
    files.write_bytes(os.path.join(folder, WARM_UP), content)

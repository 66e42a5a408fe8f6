"""The files of one version of a model: SavedModel, card, warm-up; tried before anybody sees them."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfbrats.config import PatchConfig
from tfbrats.errors import InputError
from tfbrats.exports import bfloat16
from tfbrats.exports.card import card_of
from tfbrats.exports.chosen import Chosen
from tfbrats.exports.cost import cost_of
from tfbrats.exports.rehearsal import OtherAnswerError, rehearse
from tfbrats.inference.cascade_segmenter import CascadeSegmenter
from tfbrats.inference.ensemble import as_one, members_of
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
from tfbrats.predictions.model_card import Averaged, ModelCard
from tfbrats.records import tfrecord
from tfbrats.training import best_weights, start_weights

_WARM_UP_SLICES = 8


def segmenter_of(chosen: Chosen) -> Segmenter:
    """The best weights of the runs with everything round them."""
    networks = {
        region: [
            best_weights.network_of(one.config, region, one.checkpoints[region], chosen.precision)
            for one in chosen.members
        ]
        for region in chosen.config.whole.regions
    }
    return _round(networks, chosen)


def _round(several: Mapping[str, Sequence[keras.Model]], chosen: Chosen, n4: bool = True) -> Segmenter:
    """Of each region the runs' networks, with everything round them."""
    networks = {region: as_one(some, chosen.mirrors) for region, some in several.items()}
    config, schema = chosen.config, chosen.schema
    bias = (config.preprocess.n4_modalities, config.preprocess.n4_shrink) if n4 else ((), 1)
    if isinstance(config, PatchConfig):
        size = config.sampling.patch_size
        return CascadeSegmenter(
            networks, config.data.modalities, size, config.cascade, schema, *bias, chosen.tuned
        )
    canvas = config.records.slice_shape
    return SliceSegmenter(networks[""], config.data.modalities, canvas, schema, *bias, chosen.tuned)


def folded(segmenter: Segmenter, chosen: Chosen, n4: bool = True) -> tuple[Segmenter, str]:
    """The same segmenter with batch normalisation folded into its networks, and what the card says of it.

    Args:
        n4: False leaves bias correction out.
    """
    networks = {region: members_of(network) for region, network in networks_of(segmenter).items()}
    found = {region: [folding.folded(network) for network in some] for region, some in networks.items()}
    count = sum(each for some in found.values() for _, each in some)
    of = sum(
        isinstance(layer, keras.layers.BatchNormalization)
        for some in networks.values()
        for network in some
        for layer in network.layers
    )
    other = _round({region: [network for network, _ in some] for region, some in found.items()}, chosen, n4)
    return other, f"{count} of {of} folded into the convolutions before them"


def tried_in_bfloat16(chosen: Chosen, segmenter: Segmenter) -> str:
    """What the card says of bfloat16, in which the networks are tried; N4 is left out.

    Args:
        segmenter: `segmenter_of(chosen)`.

    Returns:
        "" for networks narrower than `bfloat16.LEAST_WIDTH`, which are not tried; of several the first is.
    """
    if chosen.config.model.width < bfloat16.LEAST_WIDTH:
        return ""
    if chosen.is_averaged:
        chosen = chosen.first_alone
        segmenter = segmenter_of(chosen)

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
    cost = _cost_of(chosen, segmenter)
    card = functools.partial(card_of, chosen, name, version, bfloat16=in_bfloat16, averaged=cost)
    faster, said = folded(segmenter, chosen)
    try:
        _write_and_try(folder, chosen, faster, segmenter, functools.partial(card, batch_norm=said))
    except OtherAnswerError as error:
        files.remove(folder)
        said = f"none folded: {str(error).partition('. ')[0]}"
        _write_and_try(folder, chosen, segmenter, segmenter, functools.partial(card, batch_norm=said))
    if len(chosen.members) == 1:
        # What the graph has folded and left away: for whoever trains on from this model.
        for region, checkpoint in chosen.members[0].checkpoints.items():
            start_weights.write_beside(
                folder, region, best_weights.network_of(chosen.config, region, checkpoint)
            )


def _cost_of(chosen: Chosen, segmenter: Segmenter) -> Averaged | None:
    """What it costs that answers are averaged; None where they are not."""
    if not chosen.is_averaged:
        return None
    alone = chosen.first_alone
    several, one = folded(segmenter, chosen, n4=False)[0], folded(segmenter_of(alone), alone, n4=False)[0]
    return cost_of(several, one, chosen.mirrors, len(chosen.members), plane(chosen.config))


def _write_and_try(
    folder: str, chosen: Chosen, segmenter: Segmenter, trained: Segmenter, card_with: Callable[..., ModelCard]
) -> None:
    """Writes a version; its answers are held against those of the networks as they were trained.

    Args:
        card_with: `card_of` with all but the signatures.
    """
    signatures = signatures_of(segmenter, chosen.config, lambda: card.to_json())
    card = card_with(signatures=signatures)
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

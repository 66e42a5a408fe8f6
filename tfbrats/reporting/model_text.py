"""An exported model's card as text: what it is, what it asks of its caller, what it answers."""

import json
from typing import TYPE_CHECKING

from tfbrats.machine import files
from tfbrats.terminal import wording

if TYPE_CHECKING:  # what reads cards is imported once a model was found: tfbrats inspect mostly looks at scans
    from tfbrats.predictions.model_card import ModelCard

_SAVED = "saved_model.pb"


def told(folder: str, as_json: bool = False) -> str | None:
    """What is to be said of the exported model that a folder is; None where it is none.

    Args:
        folder: of one version, or of a model, whose newest version is meant.
        as_json: one object, the card with what it asks of its caller, in place of lines.

    Raises:
        InputError: it has no card, or one that cannot be read.
    """
    if not _is_model(folder):
        return None
    from tfbrats.predictions import doubts, model_card

    card = model_card.read(model_card.version_folder(folder))
    if as_json:
        return json.dumps({**json.loads(card.to_json()), "caller": doubts.asked_of_caller(card)}, indent=2)
    return "\n".join(lines(card))


def _is_model(folder: str) -> bool:
    """Whether a SavedModel lies there, or in the last numbered folder below. Predictions have a card alone."""
    versions = [name for name in files.names_in(folder) if name.isascii() and name.isdecimal()]
    places = (folder, *(files.join(folder, name) for name in sorted(versions, key=int)[-1:]))
    return any(files.exists(files.join(place, _SAVED)) for place in places)


def lines(card: "ModelCard") -> list[str]:
    """E.g. "model       cun version 3: cun, width 32: ..." and so on."""
    from tfbrats.predictions import doubts

    labels = card.schema_of_labels
    rows = [
        ("model", f"{card.name} version {card.version}: {card.description}"),
        ("takes", ", ".join(card.modalities)),
        *(("callers" if n == 0 else "", text) for n, text in enumerate(doubts.asked_of_caller(card))),
        ("answers", f"{labels.describe()} ({labels.edition})"),
        ("signatures", ", ".join(card.signatures)),
        ("precision", card.precision),
    ]
    more = (("averaged", card.averaged and card.averaged.text), ("tuned", card.tuned and card.tuned.text))
    rows += [(title, text) for title, text in more if text]
    rows += [("use", card.intended_use), ("licence", card.license)]
    return wording.columns(rows, ("<12", ""))

"""An exported model's card as text: what it is, what it asks of its caller, what it answers."""

import json

from tfbrats.machine import files
from tfbrats.predictions import doubts, model_card
from tfbrats.predictions.model_card import ModelCard
from tfbrats.terminal import wording

_SAVED = "saved_model.pb"  # a folder of predictions has a card too, and no graph


def told(folder: str, as_json: bool = False) -> str | None:
    """What is to be said of the exported model that a folder is; None where it is none.

    Args:
        folder: of one version, or of a model, whose newest version is meant.
        as_json: one object, the card with what it asks of its caller, in place of lines.

    Raises:
        InputError: its card cannot be read.
    """
    card = _card(folder)
    if card is None:
        return None
    if as_json:
        return json.dumps({**json.loads(card.to_json()), "caller": doubts.asked_of_caller(card)}, indent=2)
    return "\n".join(lines(card))


def _card(folder: str) -> ModelCard | None:
    own = [folder] if files.exists(files.join(folder, model_card.FILE)) else []
    numbered = (name for name in files.names_in(folder) if name.isascii() and name.isdecimal())
    versions = own or [files.join(folder, name) for name in sorted(numbered, key=int, reverse=True)]
    is_model = any(files.exists(files.join(version, _SAVED)) for version in versions)
    return model_card.read(model_card.version_folder(folder)) if is_model else None


def lines(card: ModelCard) -> list[str]:
    """E.g. "model       cun version 3: cun, width 32: ..." and so on."""
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

"""A model's folder as strangers hand it on: its card, and its files damaged."""

import contextlib
import pathlib
import random
import struct
from collections.abc import Iterator

from fuzz.parts import Try


def cards() -> list[bytes]:
    import tiny_model

    return [
        tiny_model.card().to_file(),
        tiny_model.old_text(tiny_model.card(n4=tiny_model.of_caller("t1"))).encode(),
    ]


@contextlib.contextmanager
def try_card(folder: pathlib.Path) -> Iterator[Try]:
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


def damages() -> list[bytes]:
    """Which file, where in it (a share of 2**32), how many bytes are cut out, and what comes in their place."""
    draw = random.Random(0)
    made = [
        struct.pack("<BIH", n % 4, draw.randrange(2**32), draw.randrange(6)) + draw.randbytes(4)
        for n in range(60)
    ]
    return made + [struct.pack("<BIH", n, 0, 2**16 - 1) for n in range(4)]


@contextlib.contextmanager
def try_model(folder: pathlib.Path) -> Iterator[Try]:
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

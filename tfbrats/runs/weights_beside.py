"""Where the weights of a run lie beside the model that was exported from it. No TensorFlow.

An exported model computes with batch normalisation folded into convolutions and without the heads that only
training needs; neither can be undone. So export puts the weights as they were trained beside the graph, where a
server does not read them: assets.extra/training_weights.npz, or training_weights_wt.npz and so on; each
variable by its path.
"""

import os
from collections.abc import Sequence

from tfbrats.errors import InputError
from tfbrats.machine import files


def path(version: str | os.PathLike, region: str = "") -> str:
    """Of a region's network ("" where there is one) in a version's folder."""
    name = "_".join(filter(None, ("training_weights", region.lower())))
    return files.join(version, "assets.extra", f"{name}.npz")


def check(version: str | os.PathLike, regions: Sequence[str]) -> None:
    """Raises InputError where the weights of one of these networks are missing."""
    if missing := [one for one in (path(version, region) for region in regions) if not files.exists(one)]:
        raise InputError(
            f"{version}: holds no weights to train on ({', '.join(map(files.name, missing))}): it was exported "
            "before they were kept, or is made of several runs. Pass the run that it was exported from, or "
            "export that again."
        )

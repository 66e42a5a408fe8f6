"""The next version of a model: under another name until it is whole and tried, so no server loads half of one.

No TensorFlow before the run and what was chosen for its model have been found to be sound.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence

from tfbrats.errors import InputError
from tfbrats.exports.chosen import chosen_from
from tfbrats.machine import files, paths

_LEFT = re.compile(rf"\.\d+{re.escape(files.PARTIAL)}-\w+")  # a version in the making


def export(
    run_dirs: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    edition: str | None = None,
    overrides: Sequence[str] = (),
    precision: str = "float32",
    flips: bool = False,
    plain: bool = False,
) -> str:
    """Writes the next version of a model; returns its folder.

    Args:
        run_dirs: a run folder, or several, whose networks' probabilities are averaged.
        edition: whose label values come out; by default those of the training data.
        overrides: section.key=value for keys in `FREE`.
        precision: in which the networks compute, "float32" or "mixed_bfloat16".
        flips: average over mirrored inputs, whatever was tuned.
        plain: leave away what `tfbrats tune` has chosen for the run.

    Raises:
        InputError: no run, no checkpoint, two runs of the same weights, choices of other weights, or `output`
            is not a local folder.
    """
    if not files.is_local(output):
        raise InputError(f"{output}: export to a local folder, then copy the version's folder as a whole.")
    output = paths.absolute(output)
    chosen = chosen_from(run_dirs, edition, overrides, precision, flips, plain)
    chosen.check_weights()
    from tfbrats.exports import saving

    segmenter = saving.segmenter_of(chosen)
    version = _next_version(output)
    final = os.path.join(output, str(version))
    with _renamed_at_the_end(final) as temporary:
        saving.write(temporary, chosen, segmenter, os.path.basename(output), version)
    return final


def _next_version(output: str) -> int:
    """The number after the largest in the model's folder, which is made if need be."""
    os.makedirs(output, exist_ok=True)
    _sweep(output)
    return 1 + max((int(entry) for entry in os.listdir(output) if entry.isdigit()), default=0)


def _sweep(output: str) -> None:
    """Removes what exports that were killed have left: half versions, untouched for an hour."""
    for entry in os.scandir(output):
        if _LEFT.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > 3600:
            files.remove(entry.path)


@contextlib.contextmanager
def _renamed_at_the_end(final: str) -> Iterator[str]:
    """Yields the name under which a version is made; what fails before its end leaves nothing."""
    temporary = files.temporary_name(final)
    try:
        yield temporary
        os.rename(temporary, final)
    finally:
        files.remove(temporary)

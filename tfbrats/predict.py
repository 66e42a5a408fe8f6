"""Segment cases with an exported model, no server needed.

    python -m tfbrats.predict --model models/cun/1 --input BraTS2020 --output predictions

Writes <case_id>.nii.gz for each case, on the case's own grid and in its own label values. Run again, it goes
on with the cases that have none yet.
"""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfbrats import case, command, files, layouts, model_card
from tfbrats.case import Case
from tfbrats.command import InputError
from tfbrats.model_card import ModelCard


class SavedSegmenter:
    """An exported model, loaded: a Case in, tissues out.

    Args:
        model_dir: one version's folder, e.g. models/cun/1.

    Raises:
        InputError: no model here.
    """

    def __init__(self, model_dir: str | os.PathLike):
        self.card: ModelCard = model_card.read(model_dir)
        self._saved = tf.saved_model.load(os.fspath(model_dir))

    def segment(self, loaded: Case) -> tuple[np.ndarray, np.ndarray]:
        """Tissues, uint8 [I, J, K], and probabilities of WT, TC, ET, float32 [I, J, K, 3]."""
        volumes = model_card.inputs(self.card, loaded)
        signature = model_card.signature_for(volumes)
        answer = self._saved.signatures[signature](**{m: tf.constant(v) for m, v in volumes.items()})
        tissues = model_card.tissues(self.card, answer["segmentation"].numpy(), loaded.case_id)
        return tissues, answer["probabilities"].numpy()


def predict(
    model_dir: str,
    dataset: layouts.Dataset,
    output: str,
    case_ids: Sequence[str] | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Segments the cases of a data set into `output`.

    Args:
        case_ids: only these.
        probabilities: also write <case_id>_probabilities.nii.gz, float32 [I, J, K, 3].
        overwrite: segment again what has a result already.

    Returns:
        the faults of the cases that could not be segmented.
    """
    chosen = layouts.select(dataset, case_ids)
    segmenter = SavedSegmenter(model_dir)
    faults = []
    for one in tqdm(chosen, desc="cases", disable=None):
        path = files.join(output, f"{one.case_id}.nii.gz")
        if files.exists(path) and not overwrite:
            continue
        try:
            loaded = case.load(one, segmenter.card.modalities, read_label=False)
            tissues, chances = segmenter.segment(loaded)
            if probabilities:
                case.save_probabilities(
                    files.join(output, f"{one.case_id}_probabilities.nii.gz"), chances, loaded.grid
                )
            # Last: its presence says that the case is done.
            case.save_segmentation(path, tissues, loaded.grid, loaded.schema)
        except InputError as error:
            faults.append(str(error))
    return faults


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.predict", __doc__)
    parser.add_argument("--model", required=True, help="a version's folder, e.g. models/cun/1")
    parser.add_argument("--input", required=True, help="a data set or one case's folder; gs:// too")
    parser.add_argument("--output", required=True, help="folder for <case_id>.nii.gz")
    parser.add_argument("--edition", help="overrides the edition that the names tell")
    parser.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    parser.add_argument("--probabilities", action="store_true", help="write them too")
    parser.add_argument("--overwrite", action="store_true", help="segment again what has a result")
    options = parser.parse_args(arguments)
    dataset = layouts.find(options.input, options.edition)
    faults = predict(
        options.model, dataset, options.output, options.case, options.probabilities, options.overwrite
    )
    if faults:
        raise InputError("these cases could not be segmented:\n" + "\n".join(faults))
    print(f"segmentations are in {options.output}")


if __name__ == "__main__":
    command.run(main)

"""tfbrats tune: once through the network, killed and gone on with, what it writes, and whom it refuses."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from tests import untrained
from tfbrats import tune
from tfbrats.errors import InputError
from tfbrats.exports.chosen import chosen_from
from tfbrats.machine import locks
from tfbrats.phantoms import data_sets
from tfbrats.predictions import seen
from tfbrats.tuning import kept_evidence, rules, tuned_file
from tfbrats.tuning.choices import PLAIN, Pieces, Tuned


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Six small simulated cases; ids."""
    folder = tmp_path_factory.mktemp("cases")
    return folder, data_sets.write_dataset(folder, 6, "2020", seed=7, shape=(32, 32, 16))


@pytest.fixture
def run(cases, tmp_path):
    """A run that was trained on another case than five of these."""
    _, ids = cases
    return untrained.write(tmp_path / "run", splits={"train": ids[:1], "validation": ids[1:], "test": []})


def tuned(run, cases, *more: str) -> bytes:
    runs = [run] if isinstance(run, str) else run
    tune.main(["--run", *runs, "--input", str(cases[0]), "--workers", "1", *more])
    return pathlib.Path(tuned_file.path_in(runs[0])).read_bytes()


def test_killed_at_any_case_and_started_again_it_writes_the_same_bytes(run, cases, capsys, monkeypatch):
    content = tuned(run, cases)
    said = capsys.readouterr().out
    assert "5 cases of 5 patients" in said and "note: 5 patients are few" in said
    assert "5 passes through a network" in said and f"next: tfbrats export --run {run}" in said
    assert not os.path.exists(os.path.join(run, tune.EVIDENCE))
    found = tuned_file.read(run)
    assert found.cases == tuple(cases[1][1:]) and found.patients == 5 and len(found.weights) == 1
    os.remove(tuned_file.path_in(run))

    passes, write = [], kept_evidence.write

    def killed_at_the_third(path, *of_case):
        passes.append(path)
        if len(passes) == 3:
            raise KeyboardInterrupt
        write(path, *of_case)

    monkeypatch.setattr(kept_evidence, "write", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        tuned(run, cases)
    assert not os.path.exists(tuned_file.path_in(run))
    assert tuned(run, cases, "--keep") == content
    assert len(passes) == 3 + 3  # two were kept
    assert "2 of 5 cases are through the network already" in capsys.readouterr().out
    # Another criterion needs no network, and the same weights' evidence stays good.
    other = json.loads(tuned(run, cases, "--criterion", "dice"))
    assert len(passes) == 6 and other["criterion"] == "dice"


def test_the_plain_decision_over_what_is_kept_is_the_model_s_own(run, cases):
    from tfbrats.cases import case
    from tfbrats.datasets import layouts
    from tfbrats.exports import saving
    from tfbrats.tuning import piece_counts

    tuned(run, cases, "--keep", "--flips")
    entry = layouts.select(layouts.find(cases[0]), cases[1][1:2])[0]
    loaded = case.load(entry)
    volumes = {name: loaded.image[..., n].astype(np.float32) for n, name in enumerate(loaded.modalities)}
    kept = kept_evidence.read(os.path.join(run, tune.EVIDENCE, f"{entry.case_id}.npz"))
    for flips in (False, True):
        segmenter = saving.segmenter_of(chosen_from(run, "2023", flips=flips))
        answer = segmenter(volumes)["segmentation"].numpy()
        name = "flips" if flips else "plain"
        masks = {
            region: kept.on_grid(mask) for region, mask in rules.decided(kept.evidence[name], PLAIN).items()
        }
        low = kept.corners[0]
        box = tuple(slice(first, first + size) for first, size in zip(low, kept.shape, strict=True))
        assert np.array_equal(rules.tissues_of(masks), answer[box])
    assert piece_counts.measures(kept, [PLAIN]).shape == (1, 3, 2)


def test_each_case_is_judged_by_the_run_that_was_not_trained_on_it(cases, tmp_path, capsys):
    _, ids = cases
    halves = ids[:3], ids[3:]
    runs = [
        untrained.write(
            tmp_path / f"fold{n}",
            f"train.seed={n}",
            splits={"train": halves[1 - n], "validation": halves[n], "test": []},
        )
        for n in range(2)
    ]
    tuned(runs, cases, "--keep")
    assert f"next: tfbrats export --runs {runs[0]} {runs[1]}" in capsys.readouterr().out
    found = tuned_file.read(runs[0])
    assert len(found.weights) == 2 and found.cases == tuple(ids) and tuned_file.read(runs[1]) == found
    for own in (_weights_of(runs[1]), found.weights):  # of one of them, and of both as one model
        tuned_file.check_weights([""], found, own)
    with pytest.raises(InputError, match="other weights"):
        tuned_file.check_weights(runs, found, ["0" * 64])
    for n, half in enumerate(halves):
        for case_id in half:
            with np.load(os.path.join(runs[0], tune.EVIDENCE, f"{case_id}.npz")) as stored:
                stamp = json.loads(stored["stamp"].tobytes())
            assert stamp["weights"] == [_weights_of(runs[n])]


def test_what_was_chosen_for_one_run_is_nothing_for_several(run, cases, tmp_path):
    _, ids = cases
    other = untrained.write(
        tmp_path / "other", "train.seed=1", splits={"train": ids[:1], "validation": ids[1:], "test": []}
    )
    tuned(run, cases)
    assert tuned_file.read(run).choices.is_plain
    assert chosen_from([run, other], plain=False).tuning is None
    found = tuned_file.read(run).model_copy(update={"tuned": Tuned(least_et_voxels=50).to_json()})
    for path in (run, other):  # whichever of the two was tuned
        for one in (run, other):
            if os.path.exists(tuned_file.path_in(one)):
                os.remove(tuned_file.path_in(one))
        tuned_file.write(path, found)
        with pytest.raises(InputError, match=f"not tuned together.*tfbrats tune --run {run} {other} --input"):
            chosen_from([run, other], plain=False)
    assert chosen_from([run, other]).tuning is None  # --plain


def test_several_runs_are_kept_to_one_command(run, cases, tmp_path):
    _, ids = cases
    other = untrained.write(
        tmp_path / "other", "train.seed=1", splits={"train": ids[:1], "validation": ids[1:], "test": []}
    )
    busy = pytest.raises(InputError, match=f"{other}: another command is tuning this run")
    with locks.alone(os.path.join(other, ".tuning"), ""), busy:
        tuned([run, other], cases)
    assert not os.path.exists(tuned_file.path_in(run))


def test_the_card_knows_whom_the_choice_has_seen(run, cases):
    from tfbrats.exports import card

    tuned(run, cases)
    elsewhere = "BraTS20_Training_777"
    found = tuned_file.read(run)
    found = found.model_copy(
        update={"tuned": Tuned(least_et_voxels=50).to_json(), "cases": (*found.cases[:2], elsewhere)}
    )
    tuned_file.write(run, found)
    told = card._training_data(chosen_from(run, plain=False))
    kinds = seen.kinds_of(told, [cases[1][0], cases[1][1], elsewhere, "BraTS20_Training_778"])
    assert list(kinds.values()) == ["train", "validation", "tuned", "unseen"]
    assert "1 chose what is tuned in it" in seen.listed(seen.by_kind(kinds))
    plain = seen.kinds_of(card._training_data(chosen_from(run)), [elsewhere])
    assert plain == {elsewhere: "unseen"}


def _weights_of(run: str) -> list[str]:
    from tfbrats.training import best_weights

    return [best_weights.sha256_of(path) for path in chosen_from(run).members[0].checkpoints.values()]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Pieces(most_inner_alone=True), True),
        (Pieces(largest_alone=True), True),
        (Pieces(least_voxels=50), False),
    ],
)
def test_that_other_tumours_are_lost_is_said(rule, said):
    worth = tuned_file.Worth(gain=0.1, low=0.05, high=0.2)
    scores = {region: {"dice": 0.8, "f1": 0.5, "hd95_mm": 9.0} for region in ("WT", "TC", "ET")}
    found = tuned_file.TunedFile(
        tuned=Tuned(pieces={"WT": rule}).to_json(),
        chosen={"pieces of WT": worth},
        others={},
        whole=worth,
        scores={"plain": scores, "tuned": scores},
        criterion="dice",
        meaning="Dice",
        cases=("Case_1",),
        patients=1,
        seed=0,
        weights=("0" * 64,),
    )
    text = "\n".join(tune._lines(found))
    assert ("of several tumours the others are lost" in text) == said and "WT" in text


def test_whom_it_refuses(run, cases, tmp_path):
    folder, ids = cases
    with pytest.raises(InputError, match="4 cases of 4 patients to choose by: too few"):
        tuned(run, cases, "--cases", ",".join(ids[1:5]))
    with pytest.raises(InputError, match=f"{ids[0]}: trained the run"):
        tuned(run, cases, "--cases", ",".join(ids))
    with open(os.path.join(run, "begun_from.json"), "w") as file:
        before = seen.hashes_of({"train": ids[2:3], "validation": [], "test": []})
        json.dump({"kind": "run", "name": "base", "seen": before}, file)
    with pytest.raises(InputError, match=f"{ids[2]}: trained the run or the one that it began from"):
        tuned(run, cases)
    os.remove(os.path.join(run, "begun_from.json"))
    with pytest.raises(InputError, match="no such folder"):
        tune.main(["--run", run, "--input", str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match="no run here"):
        tune.main(["--run", str(tmp_path), "--input", str(folder)])
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    mask = next((bare / ids[2]).glob("*_seg.nii*"))
    mask.unlink()
    with pytest.raises(InputError, match=f"no segmentation of {ids[2]}"):
        tune.main(["--run", run, "--input", str(bare)])
    assert not os.path.exists(tuned_file.path_in(run))

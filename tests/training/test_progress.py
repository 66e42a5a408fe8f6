"""Where a training stands, and what it says when steps are divided otherwise than before."""

import pytest

from tfbrats import config_file
from tfbrats.errors import InputError
from tfbrats.training.progress import Division, Progress, changes


def after(division, step=0):
    progress = Progress()
    progress.divide(division)
    progress.step = step
    return progress


def said(before, now, step=0, *overrides):
    return changes(after(before, step), now, config_file.load("smoke_2d.yaml", overrides), "runs/one/last")


def test_the_same_division_is_not_worth_a_word():
    assert said(Division(8, 2, 1), Division(8, 2, 1)) == []


def test_a_step_divided_otherwise_but_as_large_stays_as_it_was():
    (line,) = said(Division(8, 2, 1), Division(4, 4, 2))
    assert line == "changes     4 replicas on 2 workers instead of 2 replicas: a step is of 16 slices as before"


@pytest.mark.parametrize(
    ("replicas", "how"),
    [(4, "train.batch_size=4."), (3, "On a number of replicas that divides 16 the step could stay as it was.")],
)
def test_a_larger_step_is_said_with_how_to_keep_it(replicas, how):
    (line,) = said(Division(8, 2, 1), Division(8, replicas, 1))
    assert f"a step takes {8 * replicas} slices instead of 16; learning rate and schedule stay" in line
    assert line.endswith(how)


def test_another_batch_size_of_another_step_is_refused():
    with pytest.raises(InputError, match=r"runs/one/last: was trained with 8 slices a replica, 16 a step; now"):
        said(Division(8, 2, 1), Division(6, 2, 1))


def test_other_workers_inside_an_epoch_and_normalisation_by_replica_have_a_line_each():
    lines = said(Division(8, 2, 2), Division(4, 4, 4), 3, "model.batch_norm=per_replica")
    assert "batch normalisation is over the 4 slices of a replica" in lines[1]
    assert "in the rest of this epoch some slices may come twice and some not at all" in lines[2]
    assert len(said(Division(8, 2, 2), Division(4, 4, 4), 0, "model.batch_norm=per_replica")) == 2


def test_all_of_it_goes_through_a_checkpoint_and_its_clock_goes_on():
    progress, copy = after(Division(4, 2, 1)), Progress()
    progress.start_clock()
    progress.add_step({"loss": 2.0}, 8)
    progress.add_step({"loss": 1.0}, 8)
    copy.deserialize(progress.serialize())
    assert (copy.step, copy.examples, copy.sums, copy.division) == (2, 16, {"loss": 3.0}, Division(4, 2, 1))
    assert copy.seconds == progress.seconds > 0
    copy.seconds = 100.0
    copy.start_clock()
    copy.add_step({"loss": 1.0}, 8)
    assert 100 < copy.seconds < 110 and copy.place == "epoch 1, step 4"


def test_the_lowest_loss_is_the_best_and_without_validation_the_last():
    progress = Progress()
    assert [progress.take_loss(loss) for loss in (3.0, 2.0, 2.0, 2.5, 1.0)] == [True, True, False, False, True]
    assert progress.best == 1.0
    assert progress.take_loss(None) and progress.best == 1.0

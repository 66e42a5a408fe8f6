"""The 3-D picture: the right way round, from the right side, in the tissues' colours."""

import numpy as np
from matplotlib.colors import to_rgb

from tfbrats.cases.overlays import COLOURS
from tfbrats.labels import Tissue
from tfbrats.pictures import solid

SHAPE = (48, 56, 40)
SIZE = (160, 200)


def head():
    i, j, k = (np.linspace(-1, 1, side) for side in SHAPE)
    return i[:, None, None] ** 2 + j[:, None] ** 2 + k**2 < 0.95


def with_ball(at, tissue=Tissue.ET, radius=5):
    tissues = np.zeros(SHAPE, np.uint8)
    away = np.indices(SHAPE) - np.array(at)[:, None, None, None]
    tissues[(away**2).sum(0) < radius**2] = tissue
    return tissues


def where(picture, colour):
    """(row, column) of the middle of what has the hue of a colour."""
    hue = np.array(to_rgb(colour)) - np.mean(to_rgb(colour))
    weight = np.clip((picture - picture.mean(-1, keepdims=True)) @ hue, 0, None)
    weight[weight < weight.max() / 2] = 0
    return (
        np.array([(weight.sum(axis) * np.arange(side)).sum() for axis, side in ((1, SIZE[1]), (0, SIZE[0]))])
        / weight.sum()
    )


def test_seen_from_in_front_the_patient_s_left_is_on_the_right_and_the_head_on_top():
    yellow = COLOURS[Tissue.ET]
    places = {
        name: where(solid.render(head(), with_ball(at), (1, 1, 1), SIZE), yellow)
        for name, at in {
            "left": (34, 28, 20), "right": (14, 28, 20), "top": (24, 28, 28), "bottom": (24, 28, 12),
        }.items()
    }  # fmt: skip
    assert places["left"][1] > places["right"][1] + 20
    assert places["top"][0] < places["bottom"][0] - 20


def test_what_lies_in_front_hides_what_lies_behind():
    # From the eye to the back: in front of necrosis lies enhancing tumour, which lets little of it through.
    ball = with_ball((24, 28, 20), Tissue.NCR, 5)
    shell = with_ball((24, 28, 20), Tissue.ET, 9)
    shell[ball > 0] = Tissue.NCR
    alone, inside = (solid.render(head(), tissues, (1, 1, 1), SIZE) for tissues in (ball, shell))
    row, column = np.round(where(alone, COLOURS[Tissue.NCR])).astype(int)
    # Orange has little green; yellow has as much of it as of red.
    green = [picture[row, column, 1] / picture[row, column, 0] for picture in (alone, inside)]
    assert green[0] < 0.7 < green[1]


def test_voxels_of_any_size_give_the_same_head():
    thick = solid.render(head()[..., ::2], np.zeros(SHAPE, np.uint8)[..., ::2], (1, 1, 2), SIZE)
    fine = solid.render(head(), np.zeros(SHAPE, np.uint8), (1, 1, 1), SIZE)
    assert ((thick.max(-1) > 0.05) != (fine.max(-1) > 0.05)).mean() < 0.05
    assert fine.shape == (200, 160, 3) and fine.min() >= 0 and fine.max() <= 1


def test_without_anything_it_is_black():
    nothing = np.zeros(SHAPE, bool)
    assert not solid.render(nothing, nothing.astype(np.uint8), (1, 1, 1), SIZE).any()

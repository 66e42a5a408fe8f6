"""Charts: drawn light and dark, every case in its place, the same bytes for the same numbers."""

import base64
import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from tfbrats.labels import REGIONS
from tfbrats.pictures import encoding
from tfbrats.reporting import charts

NAN = float("nan")


def decoded(uri):
    png = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return matplotlib.image.imread(io.BytesIO(png))[..., :3]


def rows_of(dice, volumes_ml=(1, 10, 100, 1000), region="WT"):
    """A row per case in one region; in the others there is nothing to show."""
    return [
        {"case_id": str(n), "region": one, "dice": d if one == region else NAN, "reference_volume_ml": v}
        for n, (d, v) in enumerate(zip(dice, volumes_ml, strict=False))
        for one in REGIONS
    ]


@pytest.fixture
def drawn_axes(monkeypatch):
    """The axes of every figure drawn so far, light ones on even places, dark ones on odd."""
    found = []
    subplots = Figure.subplots

    def kept(figure, *arguments, **named):
        found.append(subplots(figure, *arguments, **named))
        return found[-1]

    monkeypatch.setattr(Figure, "subplots", kept)
    return found


def test_curves_are_drawn_from_whatever_columns_there_are(drawn_axes):
    full = [
        {"epoch": "1", "loss": "0.9", "validation_loss": "1.0", "dice_wt": "0.4", "seconds": "3"},
        {"epoch": "2", "loss": "0.7", "validation_loss": "", "dice_wt": "0.5", "seconds": "3"},
    ]
    titles = [one.title for one in charts.training_curves(full)]
    assert titles == ["Training loss", "Validation loss", "Dice (validation)"]
    training, validation, dice = drawn_axes[0], drawn_axes[2], drawn_axes[4]
    np.testing.assert_equal([line.get_xydata() for line in training.lines], [[[1, 0.9], [2, 0.7]]])
    assert [line.get_label() for line in dice.lines] == ["WT"]
    np.testing.assert_equal([line.get_xydata() for line in validation.lines], [[[1, 1.0], [2, NAN]]])
    assert [one.title for one in charts.training_curves([{"loss": "0.9"}])] == ["Training loss"]
    assert charts.training_curves([]) == []
    assert charts.training_curves([{"seconds": "3"}]) == []


def test_dice_of_training_is_dashed_in_the_colour_of_the_same_region_of_validation(drawn_axes):
    row = {"epoch": "1", "loss": "0.9", "training_dice_wt": "0.6", "training_dice_tc": "0.5"}
    full = [{**row, "validation_loss": "1", "dice_wt": "0.4", "dice_tc": "0.3"}] * 2
    titles = [one.title for one in charts.training_curves(full)]
    assert titles == ["Training loss", "Validation loss", "Dice (validation; dashed: training)"]
    validation, training = drawn_axes[4].lines[:2], drawn_axes[4].lines[2:]
    assert [line.get_ydata()[0] for line in training] == [0.6, 0.5]
    for one, other in zip(validation, training, strict=True):
        assert one.get_color() == other.get_color()
        assert (one.get_linestyle(), other.get_linestyle()) == ("-", "--")
    assert [text.get_text() for text in drawn_axes[4].get_legend().get_texts()] == ["WT", "TC"]


def test_without_validation_the_dice_of_training_is_named_as_such(drawn_axes):
    (curve,) = charts.training_curves([{"epoch": "1", "training_dice": "0.6"}])
    assert curve.title == "Dice (training)"
    assert [line.get_linestyle() for line in drawn_axes[0].lines] == ["-"]


def test_one_epoch_alone_is_seen_although_it_is_no_line(drawn_axes):
    charts.training_curves([{"epoch": "1", "training_dice": "0.6", "dice": "0.5"}])
    assert len(drawn_axes[0].lines) == 2
    assert all(line.get_marker() in charts.MARKERS for line in drawn_axes[0].lines)


def test_pixels_that_sampling_counts_are_a_picture_of_their_own_from_zero_up(drawn_axes):
    rows = [{"sampled_normal": "5000", "sampled_tumour": "900", "sampled_contour": "2600"}] * 3
    (curve,) = charts.training_curves(rows)
    assert curve.title == "Pixels that count in a step (U-Net1)"
    assert [line.get_label() for line in drawn_axes[0].lines] == ["normal", "tumour", "contour"]
    assert drawn_axes[0].get_ylim()[0] == 0 and drawn_axes[0].get_ylim()[1] > 5000


def test_a_chart_is_light_on_paper_and_dark_on_a_dark_screen():
    runs = {"ours": rows_of((0.5, 0.7))}
    (curve,) = charts.training_curves([{"loss": "0.9"}])
    for chart in (curve, charts.box_plot(runs, "dice"), *charts.volume_plots(runs)):
        assert decoded(chart.light)[0, 0].mean() > 0.9
        assert decoded(chart.dark)[0, 0].mean() < 0.2


def test_a_box_has_its_median_and_quartiles_and_every_case_its_point(drawn_axes):
    dice = (0.2, 0.3, 0.4, NAN, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.85, 0.9)  # eleven numbers
    charts.box_plot({"ours": rows_of(dice, [1] * 12)}, "dice")
    axes = drawn_axes[0]
    (box,) = axes.patches
    low, high = box.get_path().vertices[:, 1].min(), box.get_path().vertices[:, 1].max()
    assert (low, high) == pytest.approx((0.45, 0.75))
    medians = [line for line in axes.lines if np.allclose(line.get_ydata(), 0.6)]
    assert medians
    (points,) = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert sorted(points.get_ydata()) == sorted(one for one in dice if one == one)
    assert len(set(points.get_xdata())) == 11


def test_of_fewer_than_ten_cases_there_are_points_and_the_median_and_no_box(drawn_axes):
    nine = (0.9, 0.2, 0.4, 0.6, 0.8, 0.95, 0.5, 0.3, 0.7)
    charts.box_plot({"ours": rows_of(nine, [1] * 9)}, "dice")
    axes = drawn_axes[0]
    assert not axes.patches
    (median,) = (collection.get_segments()[0][0, 1] for collection in axes.collections)
    assert median == 0.6
    (points,) = axes.lines
    assert sorted(points.get_ydata()) == sorted(nine)
    charts.box_plot({"ours": rows_of((*nine, 0.1), [1] * 10)}, "dice")
    assert len(drawn_axes[2].patches) == 1


@pytest.mark.parametrize(("worst", "remark"), [(0.86, "axis cut at 0.8"), (0.05, "")])
def test_an_axis_that_does_not_begin_at_0_is_said_to_be_cut(worst, remark, drawn_axes):
    chart = charts.box_plot({"ours": rows_of((worst, 0.95))}, "dice")
    assert chart.remark == remark
    assert (drawn_axes[0].get_ylim()[0] > 0.5) == bool(remark)


def test_runs_stand_side_by_side_in_each_region_each_in_its_colour_and_marker(drawn_axes):
    rows = [row | {"dice": 0.5} for row in rows_of([0.5] * 10, [1] * 10)]
    charts.box_plot({"ours": rows, "another": rows}, "dice")
    axes = drawn_axes[0]
    middles = [box.get_path().vertices[:-1, 0].mean() for box in axes.patches]
    assert len(middles) == 6 and len(np.unique(np.round(middles, 3))) == 6
    assert [round(middle) for middle in sorted(middles)] == [0, 0, 1, 1, 2, 2]
    assert len({box.get_facecolor() for box in axes.patches}) == 2
    assert len({line.get_marker() for line in axes.lines if line.get_linestyle() == "None"}) == 2


def test_no_two_of_the_first_six_runs_share_a_colour_or_a_marker():
    for kind in (charts.RUN_COLOURS, charts.RUN_COLOURS_DARK, charts.MARKERS):
        assert len(set(kind)) == 6


def test_a_region_without_any_number_has_no_box_and_the_chart_is_still_drawn(drawn_axes):
    charts.box_plot({"ours": rows_of((NAN, NAN))}, "dice")
    assert not drawn_axes[0].patches


def test_a_volume_is_drawn_against_its_dice_on_a_log_axis(drawn_axes):
    rows = rows_of((0.3, 0.6, 0.9, NAN), (2, 20, 0, 5))
    plots = charts.volume_plots({"ours": rows})
    assert [one.title for one in plots] == ["WT"]
    axes = drawn_axes[0]
    assert axes.get_xscale() == "log"
    # Neither the case without the region in the reference nor the one without a Dice has a place.
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[2, 0.3], [20, 0.6]])
    assert charts.without_volume(rows) == {"WT": 1, "TC": 1, "ET": 1}


@pytest.mark.parametrize("volumes_ml", [(5, 5), (0.003, 800), (99, 101)])
def test_a_log_axis_has_at_least_two_numbers_on_it_and_holds_every_point(volumes_ml, drawn_axes):
    charts.volume_plots({"ours": rows_of((0.3, 0.6), volumes_ml)})
    axes = drawn_axes[0]
    low, high = axes.get_xlim()
    assert low < min(volumes_ml) and max(volumes_ml) < high
    ticks = [place for place in axes.get_xticks() if low <= place <= high]
    assert 2 <= len(ticks) <= 8


def test_the_same_numbers_give_the_same_bytes():
    runs = {"ours": rows_of((0.3, 0.6, 0.9))}
    assert charts.box_plot(runs, "dice") == charts.box_plot(runs, "dice")
    assert charts.volume_plots(runs) == charts.volume_plots(runs)


def test_a_style_of_another_project_changes_no_byte(monkeypatch):
    rows = {"one": rows_of([0.1, 0.5, 0.9])}
    plain = charts.volume_plots(rows), encoding.png(np.eye(3)[:, :2, None] * np.ones(3))
    strange = {"image.origin": "lower", "axes.edgecolor": "red", "font.size": 30, "savefig.bbox": "tight"}
    with matplotlib.rc_context(strange):
        assert (charts.volume_plots(rows), encoding.png(np.eye(3)[:, :2, None] * np.ones(3))) == plain
        assert matplotlib.rcParams["image.origin"] == "lower"

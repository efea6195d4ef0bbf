from __future__ import annotations

from io import BytesIO

from IPython.core.interactiveshell import InteractiveShell
from matplotlib.image import imread

from peft_nb.plots import NAMED, NUMBERED, confusion, histogram, loss_curve, loss_curves, scatter

LOSSES = [(1, 4.0), (2, 2.0), (3, 1.0)]


def test_a_notebook_shows_it_at_twice_the_resolution_without_the_inline_backend() -> None:
    data, metadata = InteractiveShell.instance().display_formatter.format(loss_curve(LOSSES, [(0, 4.5), (3, 1.5)]))
    assert metadata["image/png"] == {"width": 640, "height": 320}
    assert imread(BytesIO(data["image/png"])).shape == (640, 1280, 4)


def test_the_ground_is_transparent() -> None:
    assert imread(BytesIO(loss_curve(LOSSES).png()))[0, 0, 3] == 0


def test_the_limit_of_a_histogram_is_drawn_when_values_come_near() -> None:
    assert len(histogram([10, 20, 90], 100).axes[0].lines) == 1
    assert len(histogram([10, 20, 30], 100).axes[0].lines) == 0
    assert imread(BytesIO(histogram([7], 100).png()))[0, 0, 3] == 0
    assert histogram([]).png()


def test_a_histogram_has_whole_numbers_alone() -> None:
    axes = histogram([28, 29, 30, 30, 31, 32]).axes[0]
    assert [tick for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_ticklocs() if tick % 1] == []


def test_curves_without_points_can_be_drawn() -> None:
    assert loss_curve([]).png()


def test_the_names_of_the_curves_stand_behind_their_ends() -> None:
    axes = loss_curve([(1, 3.0), (9, 1.0)], [(0, 3.5), (9, 2.0)]).axes[0]
    assert axes.get_legend() is None
    assert [(one.get_text(), one.xy) for one in axes.texts] == [("eval loss", (9, 2.0)), ("train loss", (9, 1.0))]


def matrix(size: int) -> list[tuple[int, int, int]]:
    return [(place, place, 9) for place in range(size)] + [(0, 1, 3)]


def words(size: int) -> list[str]:
    axes, *_ = confusion([f"class {number}" for number in range(size)], matrix(size)).axes
    return [text.get_text() for text in [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]]


def test_a_confusion_matrix_has_numbers_and_names_as_long_as_they_can_be_read() -> None:
    assert words(3) == ["9", "9", "9", "3", *["class 0", "class 1", "class 2"] * 2]
    assert words(NUMBERED + 1)[0] == "class 0"
    assert words(NAMED + 1) == []


def test_a_confusion_matrix_is_coloured_by_share_and_empty_where_nothing_is() -> None:
    picture = confusion(["a", "b"], matrix(2))
    shares = picture.axes[0].images[0].get_array()
    assert shares[0].tolist() == [0.75, 0.25]
    assert shares.mask.tolist() == [[False, False], [True, False]]
    assert imread(BytesIO(picture.png()))[0, 0, 3] == 0


def test_names_of_classes_are_no_formulas_and_long_ones_are_whole_on_several_lines() -> None:
    picture = confusion(["$x_{", "a" * 100], matrix(2))
    assert picture.png()
    lines = picture.axes[0].get_xticklabels()[1].get_text().split("\n")
    assert "".join(lines) == "a" * 100
    assert max(map(len, lines)) == 28


def test_forty_classes_stay_a_picture_of_readable_size() -> None:
    width, height = confusion([str(number) for number in range(40)], matrix(40)).get_size_inches()
    assert (9 < width < 12, 9 < height < 12) == (True, True)


def test_curves_of_many_runs_differ_without_colour_and_names_are_no_formulas() -> None:
    names = ["_hidden", "$x_{", "a" * 100, *map(str, range(27))]
    picture = loss_curves({name: (LOSSES, [(3, 1.5)]) for name in names})
    assert imread(BytesIO(picture.png()))[0, 0, 3] == 0
    training, held_out = picture.axes
    assert len({str(line._unscaled_dash_pattern) for line in training.lines[:5]}) == 5  # type: ignore[attr-defined]
    kinds = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in training.lines}  # type: ignore[attr-defined]
    assert len(kinds) == len(names)
    assert len({line.get_marker() for line in held_out.lines[:5]}) == 5
    assert [text.get_text() for text in picture.legends[0].get_texts()][:3] == ["_hidden", "$x_{", "a" * 27 + "…"]


def test_training_losses_are_smoothed_and_missing_ones_leave_room() -> None:
    noisy = [(step, 1.0 + (-1) ** step) for step in range(200)]
    (axes,) = loss_curves({"a": (noisy, []), "b": ([], [])}).axes
    (line,) = axes.lines
    assert len(line.get_ydata()) == 200
    assert max(line.get_ydata()) < 1.3
    assert loss_curves({}).png()


def test_points_are_drawn_by_their_kind() -> None:
    figure = scatter({"finished": [(1.0, 2.0), (10.0, 1.0)], "pruned": [(5.0, 3.0)]}, "rate", "loss", log=True)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["finished", "pruned"]
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "rate", "loss")
    stepped = scatter({}, "time", "loss", steps=[(1.0, 3.0), (2.0, 1.0)]).axes[0]
    assert stepped.lines[0].get_drawstyle() == "steps-post"


def test_values_that_are_all_the_same_have_one_whole_number_below_them() -> None:
    (axes,) = histogram([32, 32, 32], label="longer side, pixels").axes
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [32]

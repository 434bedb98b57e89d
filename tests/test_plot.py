import math

import numpy as np
import pytest
import xarray
from matplotlib import pyplot as plt
from matplotlib.container import ErrorbarContainer

from genjax.plot import COLORS, inductive_bias_curves

INF = math.inf
ERRORS = [0.01, 0.03, 0.1, 0.3, 1.0]
NATS = {"easy": [400.0, 200.0, 50.0, 5.0, 0.0], "floored": [INF, INF, 300.0, 20.0, 1.0]}


@pytest.fixture(autouse=True)
def _no_figure_left_open():
    yield
    plt.close("all")


def dataset(nats=None, **more) -> xarray.Dataset:
    nats = NATS if nats is None else nats
    variables = {"nats": (("space", "target_error"), np.array(list(nats.values()))), **more}
    return xarray.Dataset(variables, coords={"space": list(nats), "target_error": ERRORS})


def curves_of(ax):
    return {line.get_label(): line for line in ax.lines if line not in crosses_of(ax)}


def crosses_of(ax):
    return [line for line in ax.lines if line.get_marker() == "x"]


def test_axes_say_quantity_unit_and_scale():
    ax = inductive_bias_curves(dataset())
    assert ax.get_xlabel() == "target error (mean squared)"
    assert ax.get_ylabel() == "required inductive bias (nats)"
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [text for text in legend if "impossible" not in text] == list(NATS)
    assert sum("impossible below" in text for text in legend) == len(crosses_of(ax)) > 0


def test_one_line_per_curve_of_the_finite_positive_points():
    ax = inductive_bias_curves(dataset())
    curves = curves_of(ax)
    assert list(curves) == list(NATS)
    for name, nats in NATS.items():
        drawn = [(x, y) for x, y in zip(ERRORS, nats, strict=True) if 0 < y < INF]
        np.testing.assert_array_equal(curves[name].get_xydata(), drawn)
    assert all(np.isfinite(line.get_xydata()).all() for line in ax.lines)


def test_curves_are_told_apart_without_color():
    ax = inductive_bias_curves(dataset())
    looks = {(line.get_linestyle(), line.get_marker()) for line in curves_of(ax).values()}
    assert len(looks) == len({line.get_color() for line in curves_of(ax).values()}) == 2
    assert len(set(COLORS)) == len(COLORS)


def test_cross_where_a_curve_meets_its_floor():
    ax = inductive_bias_curves(dataset())
    (cross,) = crosses_of(ax)
    np.testing.assert_array_equal(cross.get_xydata(), [[0.1, 300.0]])
    assert cross.get_color() == curves_of(ax)["floored"].get_color()


def test_cross_does_not_depend_on_the_order_of_the_errors():
    (cross,) = crosses_of(inductive_bias_curves(dataset().isel(target_error=slice(None, None, -1))))
    np.testing.assert_array_equal(cross.get_xydata(), [[0.1, 300.0]])


def test_wholly_impossible_curve_keeps_its_legend_entry():
    ax = inductive_bias_curves(dataset({"never": [INF] * 5, "easy": NATS["easy"]}))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["never", "easy"]
    assert curves_of(ax)["never"].get_xydata().size == 0
    assert crosses_of(ax) == []


def test_bits_axis_is_nats_over_log_two():
    ax = inductive_bias_curves(dataset())
    ax.figure.canvas.draw()
    (bits,) = ax.child_axes
    assert bits.get_ylabel() == "bits"
    # One division in floating point.
    np.testing.assert_allclose(bits.get_ylim(), np.array(ax.get_ylim()) / math.log(2), rtol=1e-14)


def test_limits_hold_every_drawn_point():
    ax = inductive_bias_curves(dataset())
    low, high = ax.get_ylim()
    assert 0 < low < 1.0
    assert 400 < high < 1e4


def test_bars_are_95_percent_intervals_only_where_there_is_an_error():
    stderr = np.zeros((2, 5))
    assert not any(
        isinstance(c, ErrorbarContainer)
        for c in inductive_bias_curves(dataset(stderr=(("space", "target_error"), stderr))).containers
    )
    stderr[1] = 2.0
    ax = inductive_bias_curves(dataset(stderr=(("space", "target_error"), stderr)))
    (bars,) = ax.containers
    (segments,) = (collection.get_segments() for collection in bars.lines[2])
    expected = [[[x, y - 3.92], [x, y + 3.92]] for x, y in zip(ERRORS[2:], NATS["floored"][2:], strict=True)]
    np.testing.assert_allclose(segments, expected, rtol=1e-12)  # rounding of y -+ 3.92


def test_draws_on_the_axes_given():
    figure, ax = plt.subplots()
    assert inductive_bias_curves(dataset(), ax) is ax
    assert figure.axes == [ax]


def test_another_dimension_has_its_own_name_and_no_floor():
    data = dataset().assign_coords(n=("target_error", [10, 20, 30, 40, 50])).swap_dims(target_error="n")
    data["n"].attrs["long_name"] = "training points"
    ax = inductive_bias_curves(data, over="n")
    assert ax.get_xlabel() == "training points"
    assert ax.get_xscale() == "linear"
    assert crosses_of(ax) == []
    np.testing.assert_array_equal(curves_of(ax)["floored"].get_xdata(), [30, 40, 50])

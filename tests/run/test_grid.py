"""Seeds crossed with hyper-parameters: order, labels and complaints."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genjax.random import seed_keys
from genjax.run import Members, make_members


@given(st.integers(1, 4), st.lists(st.integers(1, 4), max_size=3))
def test_a_product_is_in_row_major_order(n_seeds, lengths):
    hparams = {f"h{i}": [float(10 * i + j) for j in range(n)] for i, n in enumerate(lengths)}
    members = make_members(n_seeds, hparams)
    assert isinstance(members, Members)
    assert members.dims == (*hparams, "seed")
    assert members.shape == (*lengths, n_seeds)
    keys, values = members.take(np.arange(members.n))
    expected = list(itertools.product(*hparams.values(), range(n_seeds)))
    assert len(expected) == members.n
    for i, name in enumerate(hparams):
        np.testing.assert_array_equal(values[name], [row[i] for row in expected])
    seeds = jax.random.key_data(seed_keys(0, n_seeds))
    np.testing.assert_array_equal(jax.random.key_data(keys), seeds[jnp.array([row[-1] for row in expected])])


def test_a_list_of_settings_has_one_axis():
    members = make_members(2, [{"a": 1, "b": 0.5}, {"a": 3, "b": 0.25}])
    assert members.dims == ("setting", "seed")
    _, values = members.take(np.array([0, 3]))
    np.testing.assert_array_equal(values["a"], [1, 3])
    np.testing.assert_array_equal(values["b"], [0.5, 0.25])
    assert members.coords["b"][0] == "setting"


def test_values_may_be_stacks_of_pytrees_and_keys():
    stack = {"w": np.arange(6.0).reshape(3, 2), "b": np.zeros(3)}
    members = make_members(2, {"start": stack, "noise": jax.random.split(jax.random.key(1), 2)})
    assert members.shape == (3, 2, 2)
    np.testing.assert_array_equal(members.coords["start"][1], [0, 1, 2])
    _, values = members.take(np.array([5, 11]))
    np.testing.assert_array_equal(values["start"]["w"], [[2.0, 3.0], [4.0, 5.0]])
    assert jnp.issubdtype(values["noise"].dtype, jax.dtypes.prng_key)


def test_labels_keep_the_precision_they_were_written_in():
    assert make_members(1, {"rate": [0.1]}).coords["rate"][1][0] == 0.1


@pytest.mark.parametrize(
    ("keys", "hparams", "error", "message"),
    [
        (0, None, ValueError, "`keys` must be a positive whole number"),
        (True, None, TypeError, "`keys` must be a number of seeds or typed keys"),
        (jnp.zeros((2, 2), jnp.uint32), None, TypeError, "`keys` must be a number of seeds or typed keys"),
        (2, {"a": []}, ValueError, r"`hparams\['a'\]` must have at least one value"),
        (2, {"a": 3.0}, ValueError, r"`hparams\['a'\]` must have one or more values along a common leading axis"),
        (2, {"a": [[1.0, 2.0], [1.0]]}, ValueError, r"`hparams\['a'\]` must hold values of one shape"),
        (2, {"a": ["x"]}, TypeError, r"`hparams\['a'\]` must be numbers"),
        (2, {"seed": [1]}, ValueError, "`hparams` must be named by strings other than"),
        (2, [], ValueError, "`hparams` must hold at least one setting"),
        (2, [{"a": 1}, {"b": 1}], ValueError, r"`hparams` must name \['a'\] in every setting, but setting 1 names"),
        (2, "ab", TypeError, "`hparams` must be a mapping of values or a sequence of mappings"),
    ],
)
def test_bad_grids_are_refused(keys, hparams, error, message):
    with pytest.raises(error, match=message):
        make_members(keys, hparams)

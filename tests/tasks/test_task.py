import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from genjax.tasks import (
    Task,
    add_label_noise,
    add_noise_dimensions,
    decode_labels,
    encode_labels,
    make_task,
    subset,
)

LABEL_ENCODINGS = ("one_hot", "centered_one_hot", "plus_minus_one")


def labeled_task(labels, encoding="one_hot", n_classes=3, n_test=2):
    labels = np.asarray(labels)
    n = len(labels)
    x = np.arange(2.0 * n).reshape(n, 2)
    y = encode_labels(labels, encoding, n_classes)
    return make_task(
        x, y, x[:n_test], y[:n_test], kind="classification", encoding=encoding, provenance="Made by a test."
    )


def regression_task(n=5, m=3):
    rng = np.random.default_rng(0)
    return make_task(rng.normal(size=(n, 2)), rng.normal(size=n), rng.normal(size=(m, 2)), rng.normal(size=m))


def leaves_equal(a, b):
    return all(np.array_equal(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_make_task_shapes_and_defaults():
    task = make_task([[1, 2], [3, 4], [5, 6]], [1, 2, 3], [[7, 8]], [4])
    assert (task.n_train, task.n_test, task.n_outputs) == (3, 1, 1)
    assert task.y_train.shape == (3, 1)
    assert (task.name, task.kind, task.encoding) == ("custom", "regression", "none")
    np.testing.assert_array_equal(task.x_train, [[1, 2], [3, 4], [5, 6]])


def test_make_task_gives_one_axis_of_inputs_a_feature_axis():
    task = make_task(np.linspace(0, 1, 4), np.zeros(4), [0.5], [0.0])
    assert task.x_train.shape == (4, 1)
    assert task.x_test.shape == (1, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64])
def test_arrays_have_the_default_float_dtype(dtype):
    task = make_task(np.ones((2, 1), dtype), np.ones(2, dtype), np.ones((1, 1), dtype), np.ones(1, dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(task)} == {jnp.zeros(()).dtype}


GOOD = {"x_train": np.ones((4, 3)), "y_train": np.ones((4, 2)), "x_test": np.ones((2, 3)), "y_test": np.ones((2, 2))}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x_train": np.ones((5, 3))}, ValueError, "`y_train` must have 5 rows as `x_train`, but it has 4"),
        ({"y_test": np.ones((3, 2))}, ValueError, "`y_test` must have 2 rows as `x_test`, but it has 3"),
        ({"x_test": np.ones((2, 4))}, ValueError, r"`x_test` must have inputs of shape \(3,\) as `x_train`"),
        ({"y_test": np.ones((2, 1))}, ValueError, "`y_test` must have 2 columns as `y_train`, but it has 1"),
        ({"y_train": np.ones((4, 2, 1))}, ValueError, r"`y_train` must have shape \[n\] or \[n, k\]"),
        ({"x_test": np.ones((0, 3)), "y_test": np.ones((0, 2))}, ValueError, "`x_test` must be a non-empty array"),
        ({"x_train": np.ones((4, 0))}, ValueError, "`x_train` must be a non-empty array"),
        ({"x_train": 1.0}, ValueError, "`x_train` must be a non-empty array"),
        ({"x_test": np.full((2, 3), np.nan)}, ValueError, "`x_test` must be finite"),
        ({"y_train": np.full((4, 2), np.inf)}, ValueError, "`y_train` must be finite"),
        (
            {"y_train": np.array(["one", "two", "three", "four"])},
            TypeError,
            "`y_train` must be an array of real numbers",
        ),
        ({"kind": "ranking"}, ValueError, "`kind` must be one of 'classification', 'regression', but 'ranking' came"),
        ({"encoding": "hot"}, ValueError, "`encoding` must be one of"),
        ({"encoding": "one_hot"}, ValueError, "`encoding` must be 'none' for regression, but 'one_hot' came"),
        (
            {"kind": "classification", "encoding": "one_hot"},
            ValueError,
            "`y_train` does not hold 'one_hot' targets; encode labels with `encode_labels`",
        ),
        (
            {"kind": "classification", "encoding": "plus_minus_one"},
            ValueError,
            "`y_train` has 2 columns, which is not 'plus_minus_one'",
        ),
    ],
)
def test_make_task_says_what_is_wrong(change, error, message):
    with pytest.raises(error, match=message):
        make_task(**(GOOD | change))


def test_classification_with_raw_scores_is_allowed():
    task = make_task(**GOOD, kind="classification")
    assert (task.kind, task.encoding) == ("classification", "none")


def test_encodings_written_out():
    labels = [0, 2, 1]
    np.testing.assert_array_equal(encode_labels(labels, "one_hot", 3), [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    # 1e-7: one rounding of 1/3 in float32 at worst.
    np.testing.assert_allclose(
        encode_labels(labels, "centered_one_hot", 3),
        np.array([[2, -1, -1], [-1, -1, 2], [-1, 2, -1]]) / 3,
        atol=1e-7,
    )
    np.testing.assert_array_equal(encode_labels([0, 1, 1], "plus_minus_one", 2), [[-1], [1], [1]])


@settings(max_examples=30, deadline=None)
@given(data=st.data(), encoding=st.sampled_from(LABEL_ENCODINGS))
def test_decoding_inverts_encoding(data, encoding):
    n_classes = 2 if encoding == "plus_minus_one" else data.draw(st.integers(2, 12))
    dtype = data.draw(st.sampled_from([np.uint8, np.int8, np.int32, np.int64]))
    labels = np.array(data.draw(st.lists(st.integers(0, n_classes - 1), min_size=1, max_size=20)), dtype)
    targets = encode_labels(labels, encoding, n_classes)
    assert targets.shape == (len(labels), 1 if encoding == "plus_minus_one" else n_classes)
    assert jnp.issubdtype(targets.dtype, jnp.floating)
    decoded = decode_labels(targets, encoding)
    assert jnp.issubdtype(decoded.dtype, jnp.integer)
    np.testing.assert_array_equal(decoded, labels)
    # Decoding asks for the largest entry or the sign only, so any positive scale leaves it unchanged.
    np.testing.assert_array_equal(decode_labels(0.3 * targets, encoding), labels)
    if encoding == "centered_one_hot":
        # 1e-6: the sum of 12 numbers below one in float32 at worst.
        np.testing.assert_allclose(targets.sum(axis=1), 0, atol=1e-6)


def test_encoding_is_the_same_under_jit():
    labels = jnp.array([0, 1, 2])
    jitted = jax.jit(lambda c: encode_labels(c, "centered_one_hot", 3))(labels)
    np.testing.assert_array_equal(jitted, encode_labels(labels, "centered_one_hot", 3))


@pytest.mark.parametrize(
    ("labels", "encoding", "n_classes", "error", "message"),
    [
        ([0, 1], "plus_minus_one", 3, ValueError, r"exactly 2 classes, but there are 3: pick two with `classes=\(a, b"),
        ([0, 3], "one_hot", 3, ValueError, r"`labels` must be in 0 \.\. 2, but they range from 0 to 3"),
        ([-1, 0], "one_hot", 3, ValueError, r"`labels` must be in 0 \.\. 2, but they range from -1 to 0"),
        ([2**32], "one_hot", 3, ValueError, r"`labels` must be in 0 \.\. 2, but they range from 4294967296"),
        ([0.0, 1.0], "one_hot", 3, TypeError, "`labels` must be integers, but their dtype is float64"),
        ([[0, 1]], "one_hot", 3, ValueError, r"`labels` must have shape \[n\]"),
        ([0], "none", 3, ValueError, "`encoding` must be one of 'one_hot'"),
        ([0], "one_hot", 1, ValueError, "`n_classes` must be at least 2"),
        ([0], "one_hot", 2.5, ValueError, "`n_classes` must be a positive whole number"),
    ],
)
def test_encode_labels_says_what_is_wrong(labels, encoding, n_classes, error, message):
    with pytest.raises(error, match=message):
        encode_labels(labels, encoding, n_classes)


def test_decode_labels_says_what_is_wrong():
    with pytest.raises(ValueError, match="`targets` must have one column for 'plus_minus_one'"):
        decode_labels(np.ones((2, 2)), "plus_minus_one")
    with pytest.raises(ValueError, match="`targets` must have 2 axes"):
        decode_labels(np.ones(2), "one_hot")
    with pytest.raises(ValueError, match="`encoding` must be one of"):
        decode_labels(np.ones((2, 2)), "none")


def test_a_task_is_a_pytree_with_static_words():
    task = labeled_task([0, 1, 2])
    assert len(jax.tree.leaves(task)) == 4
    doubled = jax.jit(lambda t: dataclasses.replace(t, x_train=2 * t.x_train))(task)
    assert isinstance(doubled, Task)
    assert doubled.provenance == task.provenance
    np.testing.assert_array_equal(doubled.x_train, 2 * task.x_train)
    np.testing.assert_array_equal(doubled.y_test, task.y_test)


def test_a_task_passes_through_vmap():
    task = regression_task()
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), task)
    sums = jax.vmap(lambda t: t.x_train.sum() * t.n_train)(stacked)
    # 1e-6 relative: the order of ten additions.
    np.testing.assert_allclose(sums, [5 * task.x_train.sum(), 10 * task.x_train.sum()], rtol=1e-6)


def test_subset_keeps_the_first():
    task = labeled_task([0, 1, 2, 0, 1], n_test=3)
    small = subset(task, n_train=2, n_test=1)
    np.testing.assert_array_equal(small.x_train, task.x_train[:2])
    np.testing.assert_array_equal(small.y_train, task.y_train[:2])
    np.testing.assert_array_equal(small.x_test, task.x_test[:1])
    np.testing.assert_array_equal(small.y_test, task.y_test[:1])
    assert small.provenance == "Made by a test; the first 2 training and 1 test examples kept."
    assert leaves_equal(subset(task), task)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_train": 6}, "`n_train` must be at most 5, the examples in the task, but 6 came"),
        ({"n_test": 3}, "`n_test` must be at most 2"),
        ({"n_train": 0}, "`n_train` must be a positive whole number"),
        ({"n_test": 1.5}, "`n_test` must be a positive whole number"),
    ],
)
def test_subset_says_what_is_wrong(sizes, message):
    with pytest.raises(ValueError, match=message):
        subset(labeled_task([0, 1, 2, 0, 1]), **sizes)


@pytest.mark.parametrize("encoding", LABEL_ENCODINGS)
def test_label_noise_is_uniform_over_all_classes(encoding):
    k = 2 if encoding == "plus_minus_one" else 4
    n, fraction = 8000, 0.5
    task = labeled_task(np.zeros(n, int), encoding, k)
    noisy = add_label_noise(jax.random.key(1), task, fraction)
    labels = np.asarray(decode_labels(noisy.y_train, encoding))
    # Every redrawn label is uniform, so each wrong class holds Binomial(n/2, 1/k) of them: 5 standard deviations.
    expected, deviation = n * fraction / k, np.sqrt(n * fraction * (1 / k) * (1 - 1 / k))
    counts = np.bincount(labels, minlength=k)
    assert (abs(counts[1:] - expected) < 5 * deviation).all()
    assert leaves_equal((noisy.x_train, noisy.x_test, noisy.y_test), (task.x_train, task.x_test, task.y_test))
    make_task(noisy.x_train, noisy.y_train, noisy.x_test, noisy.y_test, kind="classification", encoding=encoding)


def test_label_noise_redraws_exactly_the_stated_number():
    # Over many keys every position is redrawn, but never more than round(0.3 * 10) = 3 at once.
    task = labeled_task([0] * 10)
    noisy = jax.vmap(lambda key: add_label_noise(key, task, 0.3))(jax.random.split(jax.random.key(0), 400))
    changed = np.asarray(noisy.y_train[:, :, 0] == 0)
    assert changed.sum(axis=1).max() == 3
    # A position changes with probability 0.3 * 2/3 = 0.2: 5 standard deviations of the mean over 400 keys.
    assert (abs(changed.mean(axis=0) - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 400)).all()
    assert "3 of 10 training labels redrawn uniformly" in noisy.provenance


def test_label_noise_of_nothing_changes_nothing_and_keys_matter():
    task = labeled_task(np.arange(30) % 3)
    assert leaves_equal(add_label_noise(jax.random.key(0), task, 0.0), task)
    one, same, other = (add_label_noise(jax.random.key(seed), task, 1.0) for seed in (0, 0, 1))
    assert leaves_equal(one, same)
    assert not leaves_equal(one, other)


def test_label_noise_says_what_is_wrong():
    key, task = jax.random.key(0), labeled_task([0, 1, 2])
    with pytest.raises(ValueError, match=r"`fraction` must be in \[0, 1\], but 1.5 came"):
        add_label_noise(key, task, 1.5)
    with pytest.raises(ValueError, match=r"`fraction` must be in \[0, 1\], but nan came"):
        add_label_noise(key, task, float("nan"))
    with pytest.raises(ValueError, match=r"`task` must be a classification task .* its kind is 'regression'"):
        add_label_noise(key, regression_task(), 0.5)
    for bad in (0, jax.random.PRNGKey(0), jax.random.split(key)):
        with pytest.raises(TypeError, match=r"`key` must be one typed key from jax\.random\.key"):
            add_label_noise(bad, task, 0.5)


def test_noise_dimensions_are_appended_with_the_stated_scale():
    n, d, scale = 2000, 5, 3.0
    task = make_task(np.ones((n, 2)), np.zeros(n), np.ones((n, 2)), np.zeros(n))
    wider = add_noise_dimensions(jax.random.key(0), task, d, scale)
    assert wider.x_train.shape == wider.x_test.shape == (n, 2 + d)
    np.testing.assert_array_equal(wider.x_train[:, :2], task.x_train)
    np.testing.assert_array_equal(wider.x_test[:, :2], task.x_test)
    noise = np.concatenate([wider.x_train[:, 2:], wider.x_test[:, 2:]], axis=1)
    # Entries of the sample covariance of n standard normals have deviations sqrt(2/n) at most: 5 of them.
    np.testing.assert_allclose(noise.T @ noise / n, scale**2 * np.eye(2 * d), atol=5 * scale**2 * np.sqrt(2 / n))
    assert wider.provenance.endswith("; 5 Gaussian noise features of standard deviation 3 appended.")


def test_noise_dimensions_accept_a_traced_scale():
    task = regression_task()
    key = jax.random.key(0)
    scales = jnp.array([0.0, 2.0])
    wide = jax.vmap(lambda scale: add_noise_dimensions(key, task, 1, scale).x_train)(scales)
    np.testing.assert_array_equal(wide[0, :, 2], 0)
    np.testing.assert_array_equal(wide[1], add_noise_dimensions(key, task, 1, 2.0).x_train)


def test_noise_dimensions_say_what_is_wrong():
    key, task = jax.random.key(0), regression_task()
    images = make_task(np.ones((2, 4, 4)), np.ones(2), np.ones((1, 4, 4)), np.ones(1))
    with pytest.raises(ValueError, match=r"`task` must have inputs of shape \[n, d\], but theirs is \(2, 4, 4\)"):
        add_noise_dimensions(key, images, 1, 1.0)
    with pytest.raises(ValueError, match="`n_dimensions` must be a positive whole number"):
        add_noise_dimensions(key, task, 0, 1.0)
    with pytest.raises(ValueError, match="`scale` must be at least 0"):
        add_noise_dimensions(key, task, 1, -1.0)
    with pytest.raises(TypeError, match="`key` must be one typed key"):
        add_noise_dimensions(0, task, 1, 1.0)

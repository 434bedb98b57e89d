import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance as distance
import sklearn.datasets

from genjax.tasks import SOURCES, load_task

from .test_files import mnist_arrays, write_mnist

BUNDLED = ("digits", "breast_cancer", "wine", "iris", "diabetes")


def arrays(task):
    return tuple(map(np.asarray, (task.x_train, task.y_train, task.x_test, task.y_test)))


def save_regression(tmp_path, n=20, d=3, **changes):
    rng = np.random.default_rng(3)
    content = {"x": rng.normal(size=(n, d)), "y": rng.normal(size=(n, 2))} | changes
    np.savez(tmp_path / "mine.npz", **content)
    return tmp_path / "mine.npz", content["x"], content["y"]


def test_digits_reference_numbers():
    task = load_task("digits", n_train=500, n_test=500, seed=0)
    x, y, x_test, y_test = arrays(task)
    bunch = sklearn.datasets.load_digits()
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(x, bunch.data[order[:500]] / 16)
    np.testing.assert_array_equal(x_test, bunch.data[order[500:1000]] / 16)
    np.testing.assert_array_equal(y, np.eye(10)[bunch.target[order[:500]]])
    np.testing.assert_array_equal(y_test, np.eye(10)[bunch.target[order[500:1000]]])
    gram = np.exp(-distance.cdist(x, x, "sqeuclidean") / 2)
    mean = np.exp(-distance.cdist(x_test, x, "sqeuclidean") / 2) @ scipy.linalg.solve(gram, y, assume_a="pos")
    # The reference is given to ten decimals; the condition number 156 leaves rounding far below that.
    assert np.mean((mean - y_test) ** 2) == pytest.approx(0.0109698587, abs=6e-11)
    # Given to two decimals.
    assert np.linalg.cond(gram) == pytest.approx(156.36, abs=0.005)
    assert (task.name, task.kind, task.encoding) == ("digits", "classification", "one_hot")
    assert task.provenance == (
        "digits from scikit-learn; 500 training and 500 test examples drawn from 1797 with seed 0; "
        "inputs divided by 16; one_hot targets of 10 classes."
    )


@pytest.mark.parametrize("source", BUNDLED)
def test_bundled_sources_split_and_stay_apart(source):
    task = load_task(source, n_train=70, n_test=50, seed=5, scaling="none")
    x, _, x_test, _ = arrays(task)
    options = {"scaled": False} if source == "diabetes" else {}
    data, target = getattr(sklearn.datasets, f"load_{source}")(return_X_y=True, **options)
    order = np.random.default_rng(5).permutation(len(data))
    np.testing.assert_array_equal(x, data[order[:70]])
    np.testing.assert_array_equal(x_test, data[order[70:120]])
    if source == "diabetes":
        assert (task.kind, task.encoding, task.n_outputs) == ("regression", "none", 1)
        np.testing.assert_array_equal(task.y_test[:, 0], target[order[70:120]])
    else:
        np.testing.assert_array_equal(np.argmax(task.y_train, axis=1), target[order[:70]])


def test_all_examples_can_be_used_and_no_more():
    assert load_task("iris", n_train=100, n_test=50).n_test == 50
    message = r"`n_train` \+ `n_test` must be at most 150, the examples in iris, but 100 \+ 51 = 151 came"
    with pytest.raises(ValueError, match=message):
        load_task("iris", n_train=100, n_test=51)


def test_same_seed_same_task_other_seed_other_task():
    one, same, other = (load_task("wine", n_train=50, n_test=50, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(same), strict=True))
    assert not np.array_equal(one.x_train, other.x_train)


def test_a_source_with_its_own_split(tmp_path):
    x, y, x_test, y_test = content = mnist_arrays(n=12, m=8)
    write_mnist(tmp_path / "mnist", content)
    task = load_task("mnist", n_train=10, n_test=6, seed=4, data_dir=tmp_path)
    rng = np.random.default_rng(4)
    train, test = rng.permutation(12)[:10], rng.permutation(8)[:6]
    np.testing.assert_array_equal(task.x_train, x[train].reshape(10, -1) / 255)
    np.testing.assert_array_equal(task.x_test, x_test[test].reshape(6, -1) / 255)
    np.testing.assert_array_equal(task.y_train, np.eye(10)[y[train]])
    np.testing.assert_array_equal(task.y_test, np.eye(10)[y_test[test]])
    assert "drawn from 12 training and 8 test with seed 4; inputs divided by 255" in task.provenance
    with pytest.raises(ValueError, match="`n_train` must be at most 12 for mnist, but 13 came"):
        load_task("mnist", n_train=13, n_test=1, data_dir=tmp_path)
    with pytest.raises(ValueError, match="`n_test` must be at most 8 for mnist, but 9 came"):
        load_task("mnist", n_train=1, n_test=9, data_dir=tmp_path)


def test_classes_filter_both_parts_of_a_split_source(tmp_path):
    x, y, x_test, y_test = content = mnist_arrays(n=40, m=40)
    write_mnist(tmp_path, content)
    kept, kept_test = np.isin(y, [3, 8]), np.isin(y_test, [3, 8])
    task = load_task("mnist", n_train=kept.sum(), n_test=kept_test.sum(), classes=(3, 8), data_dir=tmp_path)
    rng = np.random.default_rng(0)
    train, test = rng.permutation(kept.sum()), rng.permutation(kept_test.sum())
    np.testing.assert_array_equal(task.x_train, x[kept][train].reshape(len(train), -1) / 255)
    np.testing.assert_array_equal(task.x_test, x_test[kept_test][test].reshape(len(test), -1) / 255)
    np.testing.assert_array_equal(task.y_test[:, 1], y_test[kept_test][test] == 8)


def test_image_shape_is_kept_on_request():
    images = load_task("digits", n_train=5, n_test=3, flatten=False)
    flat = load_task("digits", n_train=5, n_test=3)
    assert images.x_train.shape == (5, 8, 8)
    np.testing.assert_array_equal(images.x_train.reshape(5, 64), flat.x_train)
    np.testing.assert_array_equal(images.x_test.reshape(3, 64), flat.x_test)


def test_classes_and_signs():
    task = load_task("digits", n_train=100, n_test=100, classes=(3, 8), encoding="plus_minus_one")
    bunch = sklearn.datasets.load_digits()
    kept = np.isin(bunch.target, [3, 8])
    data, labels = bunch.data[kept], bunch.target[kept]
    order = np.random.default_rng(0).permutation(kept.sum())
    np.testing.assert_array_equal(task.x_train, data[order[:100]] / 16)
    np.testing.assert_array_equal(task.y_train[:, 0], np.where(labels[order[:100]] == 8, 1, -1))
    assert task.provenance.endswith("plus_minus_one targets of 2 classes (3, 8).")
    swapped = load_task("digits", n_train=100, n_test=100, classes=[8, 3], encoding="plus_minus_one")
    np.testing.assert_array_equal(swapped.x_train, task.x_train)
    np.testing.assert_array_equal(swapped.y_train, -task.y_train)


def test_classes_of_a_users_table_are_as_written(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "".join(f"{i},{'xyz'[i % 3]}\n" for i in range(9)))
    task = load_task(path, n_train=4, n_test=2, classes=("z", "x"), scaling="none")
    x, y, *_ = arrays(task)
    np.testing.assert_array_equal(y[:, 0] == 1, x[:, 0] % 3 == 2)


def test_centered_encoding():
    task = load_task("wine", n_train=20, n_test=20, encoding="centered_one_hot")
    plain = load_task("wine", n_train=20, n_test=20)
    # 1e-7: one rounding of 1/3 in float32 at worst.
    np.testing.assert_allclose(task.y_train, plain.y_train - 1 / 3, atol=1e-7)


def test_unit_scaling_uses_training_inputs_only(tmp_path):
    path, x, _ = save_regression(tmp_path)
    order = np.random.default_rng(0).permutation(20)
    task = load_task(path, n_train=12, n_test=8)
    divisor = abs(x[order[:12]]).max()
    np.testing.assert_array_equal(task.x_train, x[order[:12]] / divisor)
    np.testing.assert_array_equal(task.x_test, x[order[12:]] / divisor)
    assert abs(np.asarray(task.x_train)).max() == 1


def test_unit_scaling_of_zeros(tmp_path):
    path, *_ = save_regression(tmp_path, x=np.zeros((20, 3)))
    np.testing.assert_array_equal(load_task(path, n_train=12, n_test=8).x_train, 0)


def test_standardize(tmp_path):
    x = np.random.default_rng(0).normal(2, 3, size=(20, 3))
    # Seventeen copies of 0.1 have a computed deviation that is not zero; the feature is constant all the same.
    x[:, 1] = 0.1
    path, x, _ = save_regression(tmp_path, x=x)
    task = load_task(path, n_train=17, n_test=3, scaling="standardize", standardize_targets=True)
    got, targets, got_test, _ = arrays(task)
    # 1e-14: rounding of means of 17 numbers of order one.
    np.testing.assert_allclose(got.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(got.std(axis=0), [1, 0, 1], atol=1e-14)
    np.testing.assert_array_equal(got_test[:, 1], 0)
    order = np.random.default_rng(0).permutation(20)
    train, test = x[order[:17]], x[order[17:]]
    np.testing.assert_allclose(got_test[:, 2], (test[:, 2] - train[:, 2].mean()) / train[:, 2].std(), rtol=1e-14)
    np.testing.assert_allclose(targets.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(targets.std(axis=0), 1, atol=1e-14)
    assert "inputs standardized by training statistics; targets standardized" in task.provenance


@pytest.mark.parametrize("flatten", [True, False])
def test_sphere(tmp_path, flatten):
    x = np.random.default_rng(0).normal(size=(20, 2, 3))
    x[7] = 0
    path, x, _ = save_regression(tmp_path, x=x)
    task = load_task(path, n_train=12, n_test=8, scaling="sphere", flatten=flatten)
    got = np.concatenate([task.x_train, task.x_test]).reshape(20, -1)
    order = np.random.default_rng(0).permutation(20)
    # 1e-15: a few roundings of numbers below one.
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), order != 7, atol=1e-15)
    # Only the length changes: the product with the original is its norm.
    flat = x[order].reshape(20, -1)
    np.testing.assert_allclose((got * flat).sum(axis=1), np.linalg.norm(flat, axis=1), rtol=1e-14)


def test_regression_targets_come_through_unchanged(tmp_path):
    path, _, y = save_regression(tmp_path)
    task = load_task(str(path), n_train=12, n_test=8, encoding="none")
    order = np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(task.y_train, y[order[:12]])
    assert task.provenance.startswith("the user's mine.npz; ")


def test_csv_options_are_passed_on(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("count,a\n" + "".join(f"{i},{i * i}\n" for i in range(1, 9)))
    task = load_task(path, n_train=5, n_test=3, target="count", kind="regression", scaling="none")
    assert task.kind == "regression"
    np.testing.assert_array_equal(task.x_train, task.y_train**2)


def test_dtype_follows_the_x64_flag():
    task = load_task("iris", n_train=5, n_test=5)
    assert {leaf.dtype for leaf in jax.tree.leaves(task)} == {jax.numpy.zeros(()).dtype}


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("imagenet", {}, r"`source` must be one of 'digits', .* 'a path ending in \.npz', .* but 'imagenet' came"),
        ("data.xlsx", {}, "`source` must be one of"),
        (7, {}, "`source` must be one of .* but 7 came"),
        ("iris", {"n_train": 0}, "`n_train` must be a positive whole number, but 0 came"),
        ("iris", {"n_test": 2.5}, "`n_test` must be a positive whole number, but 2.5 came"),
        ("iris", {"seed": -1}, "`seed` must be a whole number that is not negative, but -1 came"),
        ("iris", {"seed": None}, "`seed` must be a whole number that is not negative, but None came"),
        (
            "iris",
            {"scaling": "big"},
            "`scaling` must be one of 'none', 'unit', 'standardize', 'sphere', but 'big' came",
        ),
        ("iris", {"encoding": "none"}, "`encoding` must be one of 'one_hot'"),
        (
            "iris",
            {"encoding": "plus_minus_one"},
            r"exactly 2 classes, but there are 3: pick two with `classes=\(a, b\)`",
        ),
        ("iris", {"standardize_targets": True}, "`standardize_targets` is for regression, but iris"),
        ("iris", {"classes": (0, 3)}, "`classes` must be among 0, 1, 2, but 3 came"),
        ("iris", {"classes": (1, 1)}, r"`classes` must be a sequence of at least two different labels, but \(1, 1\)"),
        ("iris", {"classes": (1,)}, "`classes` must be a sequence of at least two different labels"),
        ("iris", {"classes": 1}, "`classes` must be a sequence of at least two different labels, but 1 came"),
        ("iris", {"target": "a"}, "`target` is for a user's file, so it must be None for iris, but 'a' came"),
        ("iris", {"kind": "regression"}, "`kind` is for a user's file, so it must be None for iris"),
        ("diabetes", {"classes": (0, 1)}, "`classes` is for classification, but diabetes is a regression source"),
        ("diabetes", {"encoding": "one_hot"}, r"`encoding` must be None or 'none' for regression \(diabetes\)"),
    ],
)
def test_load_task_says_what_is_wrong(source, options, message):
    with pytest.raises(ValueError, match=message):
        load_task(source, **({"n_train": 5, "n_test": 5} | options))


def test_missing_files(tmp_path):
    assert set(SOURCES) - set(BUNDLED) == {"mnist", "fashion_mnist", "cifar10"}
    for source in ("mnist", "fashion_mnist", "cifar10"):
        with pytest.raises(FileNotFoundError, match=f"{source}: .* missing"):
            load_task(source, n_train=1, n_test=1, data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv: no such file"):
        load_task(tmp_path / "nothing.csv", n_train=1, n_test=1)

import gzip
import os
import pickle
import struct

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from genjax.tasks import load_bundled, load_image_set, read_cifar_batch, read_idx, read_npz

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array):
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist_arrays(n=12, m=5, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (n, 4, 3), np.uint8),
        rng.integers(0, 10, n, np.uint8),
        rng.integers(0, 256, (m, 4, 3), np.uint8),
        rng.integers(0, 10, m, np.uint8),
    )


def write_mnist(folder, arrays, spell=lambda name: name):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(MNIST_FILES, arrays, strict=True):
        content = idx_bytes(array)
        spelled = spell(name)
        (folder / spelled).write_bytes(gzip.compress(content, mtime=0) if spelled.endswith(".gz") else content)


def assert_holds(raw, arrays):
    for got, wanted in zip((raw.x, raw.y, raw.x_test, raw.y_test), arrays, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert (raw.kind, raw.n_classes, raw.input_range) == ("classification", 10, 255.0)


# The folder is only overwritten between examples, so sharing it is harmless.
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(CODES)), compress=st.booleans())
def test_idx_round_trip(tmp_path, data, name, compress):
    array = data.draw(hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    path = tmp_path / "array.idx"
    path.write_bytes(gzip.compress(idx_bytes(array), mtime=0) if compress else idx_bytes(array))
    back = read_idx(path)
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


def test_idx_is_big_endian(tmp_path):
    path = tmp_path / "array"
    path.write_bytes(bytes.fromhex("00000B01 00000002 0102 FFFE"))
    np.testing.assert_array_equal(read_idx(path), [258, -2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX magic number .* but the file starts with ''"),
        (b"\x01\x00\x08\x01\x00\x00\x00\x00", "expected an IDX magic number .* starts with '01 00 08 01'"),
        (b"\x00\x00\x0a\x01\x00\x00\x00\x00", "expected .* a type code among 0x08, 0x09, .* starts with '00 00 0a 01'"),
        (b"\x00\x00\x08\x02\x00\x00\x00\x01", "expected a header of 12 bytes for 2 axes, but 8 bytes came"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x03\x07", r"expected 11 bytes for shape \(3,\), but 9 bytes came"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01\x07\x07", r"expected 9 bytes for shape \(1,\), but 10 bytes came"),
        (b"\x00\x00\x0e\x04" + b"\xff" * 16, "expected .* bytes for shape"),
        (gzip.compress(bytes(100), mtime=0)[:-12], "expected a complete gzip file, but it is damaged"),
        (b"\x1f\x8bnot gzip", "expected a complete gzip file, but it is damaged"),
    ],
)
def test_damaged_idx_is_named(tmp_path, content, message):
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"some-file: {message}"):
        read_idx(path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize(
    "spell",
    [
        lambda s: s,
        lambda s: s + ".gz",
        lambda s: s.replace("-idx", ".idx"),
        lambda s: s.replace("-idx", ".idx") + ".gz",
    ],
    ids=["plain", "gz", "dot", "dot_gz"],
)
def test_mnist_spellings(tmp_path, name, spell):
    arrays = mnist_arrays()
    write_mnist(tmp_path / name, arrays, spell)
    assert_holds(load_image_set(name, tmp_path), arrays)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", ""),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("mnist", "mnist/MNIST/raw"),
        ("fashion_mnist", ""),
        ("fashion_mnist", "FashionMNIST/raw"),
    ],
)
def test_mnist_folders(tmp_path, name, folder):
    arrays = mnist_arrays()
    write_mnist(tmp_path / folder, arrays)
    assert_holds(load_image_set(name, tmp_path), arrays)


def test_the_two_mnists_do_not_mix(tmp_path):
    digits, fashion = mnist_arrays(seed=1), mnist_arrays(seed=2)
    write_mnist(tmp_path / "MNIST/raw", digits)
    write_mnist(tmp_path / "FashionMNIST/raw", fashion)
    assert_holds(load_image_set("mnist", tmp_path), digits)
    assert_holds(load_image_set("fashion_mnist", tmp_path), fashion)


def test_the_environment_variable_and_the_default_folder(tmp_path, monkeypatch):
    arrays, others = mnist_arrays(seed=1), mnist_arrays(seed=2)
    write_mnist(tmp_path / "elsewhere", arrays)
    write_mnist(tmp_path / "data" / "mnist", others)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENJAX_DATA", str(tmp_path / "elsewhere"))
    assert_holds(load_image_set("mnist"), arrays)
    monkeypatch.delenv("GENJAX_DATA")
    assert_holds(load_image_set("mnist"), others)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_image_npz(tmp_path, name):
    x, y, x_test, y_test = cifar_arrays(4) * 2 if name == "cifar10" else mnist_arrays()
    np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y[:, None], x_test=x_test, y_test=y_test)
    assert_holds(load_image_set(name, tmp_path), (x, y, x_test, y_test))


def test_missing_files_are_named(tmp_path):
    write_mnist(tmp_path / "mnist", mnist_arrays())
    (tmp_path / "mnist" / MNIST_FILES[1]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_image_set("mnist", tmp_path)
    message = str(caught.value)
    assert message.startswith("mnist: train-labels-idx1-ubyte missing.")
    for folder in (tmp_path, tmp_path / "mnist", tmp_path / "MNIST/raw", tmp_path / "mnist/MNIST/raw"):
        assert f"{folder}," in message or f"{folder}." in message
    assert f"mnist.npz (IDX files may end in .gz) into {tmp_path / 'mnist'}" in message
    assert "`data_dir`" in message
    assert "GENJAX_DATA" in message


def test_wholly_missing_cifar_names_all_batches(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar10: data_batch_1, .*data_batch_5, test_batch missing") as caught:
        load_image_set("cifar10", tmp_path)
    assert str(tmp_path / "cifar-10-batches-py") in str(caught.value)
    assert "data_batch_1.bin" in str(caught.value)


def test_unknown_image_set():
    with pytest.raises(ValueError, match="`name` must be one of 'mnist'"):
        load_image_set("svhn")


@pytest.mark.parametrize(
    ("index", "array", "message"),
    [
        (1, np.zeros(11, np.uint8), r"expected 12 integer labels, but uint8 of shape \(11,\) came"),
        (1, np.full(12, 10, np.uint8), r"expected labels 0 \.\. 9, but they range from 10 to 10"),
        (0, np.zeros((12, 4), np.uint8), r"expected images of uint8\[n, h, w\]"),
        (0, np.zeros((12, 4, 3), np.float32), "but float32 of shape"),
        (2, np.zeros((5, 3, 4), np.uint8), r"expected test images of shape \(4, 3\), but \(3, 4\) came"),
    ],
)
def test_inconsistent_mnist(tmp_path, index, array, message):
    arrays = list(mnist_arrays())
    arrays[index] = array
    write_mnist(tmp_path, arrays)
    with pytest.raises(ValueError, match=message):
        load_image_set("mnist", tmp_path)


def cifar_arrays(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n)


def flat_pixels(images):
    # Red, green and blue planes one after the other, each in row-major order, as the data set's page says.
    return np.stack([np.concatenate([image[:, :, c].ravel() for c in range(3)]) for image in images])


def write_batch(path, images, labels, form):
    pixels = flat_pixels(images)
    if form == "binary":
        path.with_suffix(".bin").write_bytes(
            b"".join(bytes([c]) + p.tobytes() for c, p in zip(labels, pixels, strict=True))
        )
    elif form == "python2":
        path.write_bytes(python2_pickle(pixels, labels))
    else:
        path.write_bytes(pickle.dumps({b"data": pixels, b"labels": labels.tolist()}, protocol=int(form)))


def python2_pickle(pixels, labels):
    """The opcodes Python 2 wrote for {'data': array, 'labels': list}, where strings were bytes."""

    def string(content):
        return b"T" + struct.pack("<i", len(content)) + content

    def number(value):
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n(" + string(b"u1") + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + string(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + string(b"b") + b"tR"
    shape = b"(" + number(pixels.shape[0]) + number(pixels.shape[1]) + b"t"
    array += b"(" + number(1) + shape + dtype + b"\x89" + string(pixels.tobytes()) + b"tb"
    items = b"](" + b"".join(number(int(c)) for c in labels) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + string(b"labels") + items + b"u."


@pytest.mark.parametrize("form", ["python2", "2", "3", "4", "5", "binary"])
def test_cifar_batch_forms(tmp_path, form):
    images, labels = cifar_arrays(3)
    path = tmp_path / "batch"
    write_batch(path, images, labels, form)
    got_images, got_labels = read_cifar_batch(path.with_suffix(".bin") if form == "binary" else path)
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_labels, labels)
    assert got_images.dtype == np.uint8


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_cifar_batch_keeps_memory_order_and_text_keys(tmp_path, order, protocol):
    images, labels = cifar_arrays(3)
    path = tmp_path / "batch"
    batch = {"data": np.array(flat_pixels(images), order=order), "labels": labels.astype(">i4")}
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    got_images, got_labels = read_cifar_batch(path)
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_labels, labels)


@pytest.mark.parametrize(
    ("folder", "form"),
    [
        ("", "2"),
        ("cifar10", "binary"),
        ("cifar-10-batches-py", "2"),
        ("cifar10/cifar-10-batches-py", "2"),
        ("cifar-10-batches-bin", "binary"),
    ],
)
def test_cifar_folders(tmp_path, folder, form):
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    batches = [cifar_arrays(2, seed) for seed in range(6)]
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in zip(names, batches, strict=True):
        write_batch(tmp_path / folder / name, images, labels, form)
    x, y = (np.concatenate(parts) for parts in zip(*batches[:5], strict=True))
    assert_holds(load_image_set("cifar10", tmp_path), (x, y, *batches[5]))


class Hostile:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_runs_nothing(tmp_path, protocol):
    path, folder = tmp_path / "batch", tmp_path / "made by hostile code"
    content = pickle.dumps({b"data": Hostile(str(folder)), b"labels": [0]}, protocol=protocol)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"batch: .* it names \w+\.mkdir, which is not allowed"):
        read_cifar_batch(path)
    assert not folder.exists()
    # The payload does what the test says when nobody stops it.
    pickle.loads(content)
    assert folder.exists()


def test_object_arrays_are_refused(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": np.array([[1]], object), b"labels": [0]}, protocol=2))
    with pytest.raises(ValueError, match="the dtype 'O8' is not allowed"):
        read_cifar_batch(path)


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a pickled CIFAR-10 batch, but it cannot be read"),
        (pickle.dumps({b"data": PIXELS, b"labels": [0, 1]}, protocol=2)[:-100], "but it cannot be read"),
        (pickle.dumps([1, 2]), "expected a pickled dictionary, but list came"),
        (pickle.dumps({b"data": PIXELS}), "expected the entries data and labels, but data came"),
        (
            pickle.dumps({b"data": PIXELS[:, 1:], b"labels": [0, 1]}),
            r"uint8\[n, 3072\], but uint8 of shape \(2, 3071\)",
        ),
        (pickle.dumps({b"data": PIXELS.astype("f4"), b"labels": [0, 1]}), r"uint8\[n, 3072\], but float32"),
        (pickle.dumps({b"data": PIXELS, b"labels": [0]}), r"expected 2 integer labels, but int64 of shape \(1,\)"),
        (pickle.dumps({b"data": PIXELS, b"labels": [0, 10]}), r"expected labels 0 \.\. 9, but they range from 0 to 10"),
        (pickle.dumps({b"data": PIXELS, b"labels": [0, 2**70]}), "expected 2 integer labels, but object"),
        (pickle.dumps({b"data": PIXELS, b"labels": [0, 1.5]}), "expected 2 integer labels, but float64"),
        (pickle.dumps({b"data": PIXELS, b"labels": [0, [1]]}), "numeric arrays, but they cannot be rebuilt"),
    ],
)
def test_damaged_cifar_pickles(tmp_path, content, message):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_1: .*{message}"):
        read_cifar_batch(path)


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_damaged_cifar_binary(tmp_path, size):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(ValueError, match=f"data_batch_1.bin: expected .* 3073-byte records, but {size} bytes came"):
        read_cifar_batch(path)


def test_read_npz_takes_the_first_complete_group(tmp_path):
    path = tmp_path / "some.npz"
    np.savez(path, a=np.arange(3), b=np.ones(2))
    got = read_npz(path, ("a", "c"), ("b",))
    assert list(got) == ["b"]
    np.testing.assert_array_equal(got["b"], 1)
    with pytest.raises(ValueError, match=r"some\.npz: expected the arrays a, c or d, but it holds a, b"):
        read_npz(path, ("a", "c"), ("d",))


def test_read_npz_refuses_objects_and_damage(tmp_path):
    path = tmp_path / "some.npz"
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(ValueError, match=r"some\.npz: expected an \.npz file of plain arrays"):
        read_npz(path, ("a",))
    np.savez(path, a=np.arange(1000))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"some\.npz: expected an \.npz file of plain arrays"):
        read_npz(path, ("a",))


@pytest.mark.parametrize(
    ("name", "shape", "n_classes"),
    [
        ("digits", (1797, 8, 8), 10),
        ("breast_cancer", (569, 30), 2),
        ("wine", (178, 13), 3),
        ("iris", (150, 4), 3),
        ("diabetes", (442, 10), None),
    ],
)
def test_bundled_sources(name, shape, n_classes):
    raw = load_bundled(name)
    assert raw.x.shape == shape
    assert raw.x.dtype == np.float64
    assert raw.n_classes == n_classes
    assert raw.y.shape == shape[:1]
    if n_classes:
        np.testing.assert_array_equal(np.unique(raw.y), np.arange(n_classes))
    if name == "digits":
        assert raw.x.max() == raw.input_range == 16
    if name == "diabetes":
        # Ages in whole years: the features are as measured, not as scikit-learn normalizes them.
        assert (raw.x[:, 0] == np.round(raw.x[:, 0])).all()


def test_unknown_bundled_source():
    with pytest.raises(ValueError, match="`name` must be one of 'digits'"):
        load_bundled("mnist")

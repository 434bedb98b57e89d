import numpy as np
import pytest

from genjax.tasks import KINDS, Raw, read_table


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_csv_with_header_and_text_labels(tmp_path):
    raw = read_table(write(tmp_path, "width,height,species\n1,2,rose\n3.5,-4e1,lily\n5,6,rose\n"))
    assert isinstance(raw, Raw)
    assert raw.kind in KINDS
    np.testing.assert_array_equal(raw.x, [[1, 2], [3.5, -40], [5, 6]])
    np.testing.assert_array_equal(raw.y, [1, 0, 1])
    assert (raw.kind, raw.classes, raw.n_classes) == ("classification", ("lily", "rose"), 2)
    assert (raw.name, raw.x_test, raw.y_test, raw.input_range) == ("table", None, None, None)
    assert "table.csv" in raw.origin
    assert str(tmp_path) not in raw.origin


def test_csv_without_header(tmp_path):
    raw = read_table(write(tmp_path, "1,2,7\n3,4,3\n5,6,7.0\n"))
    np.testing.assert_array_equal(raw.x, [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(raw.y, [1, 0, 1])
    assert raw.classes == (3, 7)


def test_csv_without_header_with_text_labels(tmp_path):
    raw = read_table(write(tmp_path, "1,2,b\n3,4,a\n"))
    np.testing.assert_array_equal(raw.x, [[1, 2], [3, 4]])
    assert raw.classes == ("a", "b")


def test_csv_regression(tmp_path):
    raw = read_table(write(tmp_path, "a,b\n1,0.5\n2,3\n"))
    np.testing.assert_array_equal(raw.x, [[1], [2]])
    np.testing.assert_array_equal(raw.y, [0.5, 3])
    assert (raw.kind, raw.classes, raw.y.dtype) == ("regression", None, np.float64)


@pytest.mark.parametrize("target", ["b", 1, -2])
def test_csv_target_column(tmp_path, target):
    raw = read_table(write(tmp_path, "a,b,c\n1,0.5,2\n3,1.5,4\n"), target)
    np.testing.assert_array_equal(raw.x, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(raw.y, [0.5, 1.5])


def test_header_whose_feature_names_are_numbers(tmp_path):
    text = "0,1,label\n1,2,0\n3,4,1\n"
    for target in (None, "label"):
        raw = read_table(write(tmp_path, text), target)
        np.testing.assert_array_equal(raw.x, [[1, 2], [3, 4]])
        np.testing.assert_array_equal(raw.y, [0, 1])


def test_a_named_target_makes_the_first_line_a_header(tmp_path):
    raw = read_table(write(tmp_path, "0,1\n5,0.5\n6,1.5\n"), "1")
    np.testing.assert_array_equal(raw.x, [[5], [6]])


def test_kind_overrides_the_guess(tmp_path):
    whole = write(tmp_path, "a,count\n1,10\n2,30\n")
    assert read_table(whole).kind == "classification"
    raw = read_table(whole, kind="regression")
    assert (raw.kind, raw.classes) == ("regression", None)
    np.testing.assert_array_equal(raw.y, [10, 30])
    mixed = write(tmp_path, "a,code\n1,10\n2,x\n3,10\n")
    raw = read_table(mixed, kind="classification")
    assert raw.classes == ("10", "x")
    np.testing.assert_array_equal(raw.y, [0, 1, 0])


def test_csv_blank_lines_spaces_quotes_and_byte_order_mark(tmp_path):
    raw = read_table(write(tmp_path, '\ufeff"a, b", c\n\n 1 , x\n  \n"2",y\n\n'))
    np.testing.assert_array_equal(raw.x, [[1], [2]])
    assert raw.classes == ("x", "y")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b,c\n1,2,0.5\n3,oops,0.5\n", {}, "line 3, column 2: expected a finite number, but 'oops' came"),
        ("a,b,c\n1,2,0.5\n\n3,,0.5\n", {}, "line 4, column 2: expected a finite number, but '' came"),
        ("a,b\nnan,0.5\n", {}, "line 2, column 1: expected a finite number, but 'nan' came"),
        ("a,b\n1_0,0.5\n", {}, "line 2, column 1: expected a finite number, but '1_0' came"),
        ("a,b\n1,inf\n", {}, "line 2, column 2: expected a finite number, but 'inf' came"),
        ("a,b,c\n0.5,2,oops\n", {"target": 0}, "line 2, column 3: expected a finite number, but 'oops' came"),
        ("1,bad,rose\n1,2,lily\n", {}, "line 1, column 2: expected a finite number, but 'bad' came"),
        ("a,b\n1,0.5\n2,?\n3,1.5\n", {}, r"line 3, column 2: expected a finite number, but '\?' came"),
        ("a,b\n1,x\n2,y\n", {"kind": "regression"}, "line 2, column 2: expected a finite number, but 'x' came"),
        ("a,b\n1,x\n2,\n", {}, "line 3, column 2: expected a label, but the cell is empty"),
        ("a,b\n1,2\n3\n", {}, "line 3: expected 2 cells, but 1 came"),
        ("a,b\n1,0.5\n", {"kind": "classification"}, "expected text or whole numbers as labels, but real numbers"),
        ("a;b\n1;2\n", {}, "expected at least two columns separated by commas, but 1 came"),
        ("", {}, "expected a CSV table, but the file is empty"),
        ("a,b\n", {}, "expected at least one line of numbers after the header, but none came"),
        ("a,b\n1,2\n", {"target": "c"}, "`target` must name exactly one column of .*table.csv, but 'c' came; .* a, b"),
        ("a,a\n1,2\n", {"target": "a"}, "`target` must name exactly one column"),
        ("a,b\n1,2\n", {"target": 2}, r"`target` must be a column name or an index in -2 \.\. 1, but 2 came"),
        ("a,b\n1,2\n", {"target": True}, "`target` must be a column name or an index"),
        ("a,b\n1,2\n", {"kind": "ranking"}, "`kind` must be one of 'classification', 'regression'"),
    ],
)
def test_bad_csv_is_located(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path, text), **options)


def test_csv_in_another_character_set(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes("a,b\n1,é\n".encode("latin1"))
    with pytest.raises(ValueError, match=r"table\.csv: expected a CSV table in UTF-8"):
        read_table(path)


def test_npz_with_one_pool(tmp_path):
    path = tmp_path / "mine.npz"
    x = np.arange(12.0).reshape(3, 2, 2)
    np.savez(path, x=x, y=np.array([5, 2, 5]))
    raw = read_table(path)
    np.testing.assert_array_equal(raw.x, x)
    np.testing.assert_array_equal(raw.y, [1, 0, 1])
    assert (raw.kind, raw.classes, raw.name) == ("classification", (2, 5), "mine")


def test_npz_with_its_own_split_numbers_labels_over_both_parts(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=[[1], [2]], y_train=[["b"], ["c"]], x_test=[[3]], y_test=["a"])
    raw = read_table(path)
    assert raw.classes == ("a", "b", "c")
    np.testing.assert_array_equal(raw.y, [1, 2])
    np.testing.assert_array_equal(raw.x_test, [[3]])
    np.testing.assert_array_equal(raw.y_test, [0])


def test_npz_goes_by_dtype(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.ones((2, 1)), y=np.array([0.0, 1.0]))
    assert read_table(path).kind == "regression"
    raw = read_table(path, kind="classification")
    assert raw.classes == (0, 1)
    np.savez(path, x=np.ones((2, 1), np.float32), y=np.array([[1, 2, 3], [4, 5, 6.5]]))
    raw = read_table(path)
    assert (raw.kind, raw.x.dtype) == ("regression", np.float64)
    np.testing.assert_array_equal(raw.y, [[1, 2, 3], [4, 5, 6.5]])
    np.savez(path, x=np.ones((2, 1)), y=np.array([True, False]))
    assert read_table(path).classes == (False, True)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"a": [1]}, {}, "expected the arrays x_train, y_train, x_test, y_test or x, y, but it holds a"),
        ({"x": np.ones(3), "y": np.ones(3)}, {}, r"expected x of shape \[n, \.\.\.\] .* but \(3,\) and \(3,\) came"),
        ({"x": np.ones((3, 1)), "y": np.ones(2)}, {}, r"but \(3, 1\) and \(2,\) came"),
        ({"x": np.ones((0, 1)), "y": np.ones(0)}, {}, r"but \(0, 1\) and \(0,\) came"),
        ({"x": np.full((1, 1), np.nan), "y": np.ones(1)}, {}, "expected finite numbers, but x holds NaN"),
        ({"x": np.ones((1, 1)), "y": np.full(1, np.inf)}, {}, "expected finite numbers, but y holds NaN"),
        ({"x": np.array([["a"]]), "y": np.ones(1)}, {}, "expected x of real numbers, but its dtype is <U1"),
        ({"x": np.ones((1, 1)), "y": np.array(["a"])}, {"kind": "regression"}, "numeric targets for regression"),
        (
            {"x": np.ones((1, 1)), "y": np.eye(3, dtype=int)[:1]},
            {},
            r"expected labels of shape \[n\], but shape \(1, 3\)",
        ),
        ({"x": np.ones((1, 1)), "y": np.ones(1)}, {"target": "y"}, "`target` picks a column of a CSV table"),
        (
            {"x_train": np.ones((1, 2)), "y_train": [0.5], "x_test": np.ones((1, 3)), "y_test": [0.5]},
            {},
            r"expected test data shaped as the training data \(2,\), \(\), but \(3,\), \(\) came",
        ),
    ],
)
def test_bad_npz(tmp_path, arrays, options, message):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        read_table(path, **options)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv: no such file"):
        read_table(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match=r"`path` must end in \.npz or \.csv, but '.*table\.xlsx' came"):
        read_table(tmp_path / "table.xlsx")

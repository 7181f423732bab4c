from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.data.dataset import Dataset, load_dataset, split
from maas.lifecycle.data.spec import DataSource, SplitSpec

CSV = "size,rooms,region,price\n30,1,north,100.5\n50,2,south,180\n70,3,south,240.25\n"


def _csv(tmp_path: Path, text: str, **keys: Any) -> Dataset:
    (tmp_path / "d.csv").write_text(text)
    options = {"source": "d.csv", "target": "price", "slices": ("region",), **keys}
    return load_dataset(DataSource(directory=str(tmp_path), **options))


def test_csv(tmp_path: Path) -> None:
    data = _csv(tmp_path, CSV, units={"price": "EUR"})
    assert data.task is Task.REGRESSION
    assert data.feature_names == ("size", "rooms")
    assert data.x.tolist() == [[30, 1], [50, 2], [70, 3]]
    assert data.x.dtype == np.float32
    assert data.y.tolist() == [100.5, 180, 240.25]
    assert data.slices["region"].tolist() == ["north", "south", "south"]
    assert data.units == {"price": "EUR"}


@pytest.mark.parametrize(
    ("text", "keys", "words"),
    [
        ("", {}, "d.csv is empty"),
        ("size,price\n", {"slices": ()}, "no rows"),
        (CSV, {"target": "cost"}, "there is no column 'cost' in d.csv; it has size, rooms"),
        (CSV, {"target": ""}, "data.target must name one of the columns size, rooms"),
        (CSV.replace("70", "7O"), {}, "column 'size', row 3: expected a number, found '7O'"),
        (CSV.replace("70", ""), {}, "column 'size', row 3: expected a number, found an empty cell"),
        (CSV.replace("50", "nan"), {}, "column 'size', row 2: expected a finite"),
        (CSV.replace("50", "1e99"), {}, "column 'size', row 2: expected a finite"),
        (CSV.replace("180", "inf"), {}, "column 'price', row 2: expected a finite"),
        (CSV.replace("50,2", "50"), {}, "row 2: expected 4 cells, found 3"),
        (CSV.replace("rooms", "size"), {}, "found 'size' 2 times"),
        (CSV, {"slices": ()}, "column 'region', row 1: expected a number, found 'north'"),
        (
            "size,kind\n1,a\n2,a\n",
            {"target": "kind", "slices": ()},
            "column 'kind': at least 2 classes are needed; every row is a",
        ),
        (
            "size,kind\n1,a\n2,b\n3,\n",
            {"target": "kind", "slices": ()},
            "column 'kind', row 3: expected a class, found an empty cell",
        ),
        (
            "size,kind\n1,a\n2,b\n3,c\n",
            {"target": "kind", "slices": (), "classes": ("b", "a")},
            "column 'kind', row 3: expected one of the classes b, a, found 'c'",
        ),
        (
            "size,kind\n1,1.5\n2,2.5\n",
            {"target": "kind", "slices": (), "task": "classification"},
            "column 'kind', row 1: expected a class: text or a whole number, found 1.5",
        ),
    ],
)
def test_csv_that_cannot_be_used_is_refused_by_column_and_row(
    tmp_path: Path, text: str, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        _csv(tmp_path, text, **keys)
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        (["b", "a", "b"], Task.BINARY, ("a", "b")),
        (["10", "9", "8"], Task.MULTICLASS, ("8", "9", "10")),
        (["1.0", "0.0", "1.0"], Task.BINARY, ("0", "1")),
        (["1.5", "0", "1"], Task.REGRESSION, ()),
    ],
)
def test_the_task_follows_from_the_target(
    tmp_path: Path, values: list[str], task: Task, expected: tuple[str, ...]
) -> None:
    rows = "".join(f"{i},{v}\n" for i, v in enumerate(values))
    data = _csv(tmp_path, "size,price\n" + rows, slices=())
    assert (data.task, data.class_names) == (task, expected)
    if expected:
        named = [data.class_names[i] for i in data.y]
        assert [float(n) if n[0].isdigit() else n for n in named] == [
            float(v) if v[0].isdigit() else v for v in values
        ]


def test_class_names_decide_the_order_and_indices_may_stand_for_them(tmp_path: Path) -> None:
    text = "size,price\n1,low\n2,high\n3,low\n"
    data = _csv(tmp_path, text, slices=(), classes=("low", "high"))
    assert data.y.tolist() == [0, 1, 0]
    text = "size,price\n1,1\n2,0\n3,1\n"
    data = _csv(tmp_path, text, slices=(), classes=("no", "yes"))
    assert (data.y.tolist(), data.class_names) == ([1, 0, 1], ("no", "yes"))


def test_parquet(tmp_path: Path) -> None:
    table = {"size": [30, 50], "region": ["n", "s"], "price": [1.5, 2.5]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "d.parquet")
    source = DataSource(
        source="d.parquet", target="price", slices=("region",), directory=str(tmp_path)
    )
    data = load_dataset(source)
    assert (data.x.tolist(), data.y.tolist()) == ([[30], [50]], [1.5, 2.5])
    table["size"] = [30, None]
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "d.parquet")
    with pytest.raises(InvalidInput, match="column 'size', row 2: expected a value, found none"):
        load_dataset(source)
    (tmp_path / "d.parquet").write_text("no")
    with pytest.raises(InvalidInput, match="not a Parquet file"):
        load_dataset(source)


def test_npz_never_loads_pickled_objects(tmp_path: Path) -> None:
    source = DataSource(source="d.npz", directory=str(tmp_path))
    x = np.arange(8.0).reshape(4, 2)
    np.savez(tmp_path / "d.npz", x=x, y=np.array([0, 1, 0, 1]))
    assert load_dataset(source).task is Task.BINARY
    np.savez(tmp_path / "d.npz", x=x, z=x)
    with pytest.raises(InvalidInput, match=r"no array 'y' in d\.npz; it has x, z"):
        load_dataset(source)
    np.savez(tmp_path / "d.npz", x=x, y=np.array([_Bomb()], dtype=object))
    with pytest.raises(InvalidInput, match="not a plain NPZ file"):
        load_dataset(source)
    (tmp_path / "d.npz").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(InvalidInput, match="not a plain NPZ file"):
        load_dataset(source)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_sklearn_sets() -> None:
    digits = load_dataset(DataSource(source="sklearn:digits"))
    assert digits.x.shape == (1797, 1, 8, 8)
    assert digits.class_names == tuple("0123456789")
    iris = load_dataset(DataSource(source="sklearn:iris"))
    assert iris.class_names == ("setosa", "versicolor", "virginica")
    assert len(iris.feature_names) == 4
    assert load_dataset(DataSource(source="sklearn:diabetes")).task is Task.REGRESSION
    assert load_dataset(DataSource(source="sklearn:breast_cancer")).task is Task.BINARY
    with pytest.raises(InvalidInput, match="sklearn has breast_cancer, diabetes"):
        load_dataset(DataSource(source="sklearn:boston"))


def test_a_python_entry_point(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def rows(n=3): return np.ones((n, 2)), np.arange(n) + 0.5\n"
        "def odd(): return 5\n"
        "def extra(): return {'x': [[1], [2]], 'y': [1, 2], 'z': 3}\n"
        "from maas.lifecycle.data.dataset import Dataset, Task\n"
        "def ready(y=2): return Dataset(np.eye(2), np.arange(y) * 0.5, Task.REGRESSION)\n"
        "def short(): return [[1.0], [2.0]], [1.0]\n"
    )
    place = str(tmp_path)
    data = load_dataset(DataSource(source="mine.py:rows", arguments={"n": 4}, directory=place))
    assert data.y.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert len(load_dataset(DataSource(source="mine:rows", directory=place))) == 3
    ready = load_dataset(DataSource(source="mine.py:ready", directory=place))
    assert ready.x.dtype == np.float32
    assert ready.y.tolist() == [0.0, 0.5]
    with pytest.raises(InvalidInput, match="x has 2 rows and y has 3"):
        load_dataset(DataSource(source="mine.py:ready", arguments={"y": 3}, directory=place))
    for entry, words in {
        "mine.py:nothing": "mine.py has no 'nothing'",
        "mine.py:odd": "must return (x, y), a dict with x and y, or a Dataset; got int",
        "mine.py:extra": "data has unknown parts z; expected x, y",
        "mine.py:short": "y must have one value for each of the 2 rows; got shape [1]",
        "nowhere.py:rows": "there is no file",
        "nowhere:rows": "there is no module 'nowhere'",
        "rows.xlsx": "data.source must be a .csv, .parquet or .npz file",
    }.items():
        with pytest.raises(InvalidInput) as refused:
            load_dataset(DataSource(source=entry, directory=place))
        assert words in refused.value.message


def test_the_digest_depends_on_every_part(tmp_path: Path) -> None:
    digests = {
        _csv(tmp_path, text, **keys).digest
        for text, keys in [
            (CSV, {}),
            (CSV.replace("30", "31"), {}),
            (CSV.replace("240.25", "240.5"), {}),
            (CSV.replace("north", "east"), {}),
            (CSV.replace("rooms", "floors"), {}),
            (CSV, {"units": {"price": "EUR"}}),
        ]
    }
    assert len(digests) == 6
    assert _csv(tmp_path, CSV.replace("30", "30.0")).digest in digests


def test_split_is_disjoint_complete_stratified_and_seeded() -> None:
    data = load_dataset(DataSource(source="sklearn:digits"))
    marked = Dataset(
        x=np.arange(len(data), dtype=np.float32)[:, None],
        y=data.y,
        task=data.task,
        class_names=data.class_names,
    )
    parts = split(marked, SplitSpec(seed=3))
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [1258, 180, 359]
    rows = np.concatenate([p.x[:, 0] for p in (parts.train, parts.validation, parts.test)])
    assert sorted(rows) == list(range(1797))
    for part in (parts.train, parts.validation, parts.test):
        share = np.bincount(part.y, minlength=10) / len(part)
        assert np.abs(share - np.bincount(data.y) / len(data)).max() < 0.012
    assert split(marked, SplitSpec(seed=3)).test.digest == parts.test.digest
    assert split(marked, SplitSpec(seed=4)).test.digest != parts.test.digest


def test_a_class_without_training_rows_is_refused() -> None:
    y = np.array([0] * 9 + [1])
    data = Dataset(np.zeros((10, 1), np.float32), y, Task.BINARY, class_names=("a", "b"))
    outcomes = set()
    for seed in range(20):
        try:
            split(data, SplitSpec(test=0.5, validation=0, seed=seed))
            outcomes.add("kept")
        except InvalidInput as refused:
            assert "no row of class 'b' to train on, of 1 in total" in refused.message
            outcomes.add("refused")
    assert outcomes == {"kept", "refused"}

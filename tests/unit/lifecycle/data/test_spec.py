from __future__ import annotations

from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.lifecycle.data.spec import BuildSpec

GOOD: dict[str, Any] = {"data": {"source": "sklearn:iris"}, "model": {"family": "mlp"}}


def _with(table: str, **keys: Any) -> dict[str, Any]:
    return {**GOOD, table: {**GOOD.get(table, {}), **keys}}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (_with("data", targt="y"), "[data] has no key 'targt'; did you mean 'target'?"),
        (_with("model", family="cnx"), "expected one of linear, mlp, cnn"),
        (_with("model", module="a:B"), "one of family, module or estimator"),
        (_with("model", family=""), "one of family, module or estimator; got 'none of them'"),
        (_with("model", output="label"), "model.output"),
        (_with("model", hidden=[0]), "model.hidden must be sizes of at least 1"),
        (_with("training", epochs="5"), "training.epochs: Expected `int`, got `str`"),
        (_with("training", epochs=0), "training.epochs must be at least 1; got 0"),
        (_with("training", learning_rate=-1.0), "training.learning_rate"),
        (_with("training", learning_rate=float("nan")), "training.learning_rate"),
        (_with("training", nesterov=True), "training.nesterov"),
        (
            _with("split", test=0.6, validation=0.5),
            "split must be below 1 in total, to leave training rows",
        ),
        (_with("split", test=1.0), "split.test must be a fraction"),
        ({**GOOD, "trainning": {}}, "a build has no key 'trainning'; did you mean 'training'?"),
        ({"model": {"family": "mlp"}}, "data"),
    ],
)
def test_an_invalid_spec_is_refused_with_the_recipes_keys(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        BuildSpec.from_dict(raw)
    assert words in refused.value.message


def test_the_digest_ignores_directories() -> None:
    here = BuildSpec.from_dict(GOOD, "/one/place")
    there = BuildSpec.from_dict(GOOD, "/another")
    other = BuildSpec.from_dict(_with("training", seed=1))
    assert here.data.directory == "/one/place"
    assert here.digest == there.digest
    assert here.digest != other.digest

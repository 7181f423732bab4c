from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.lifecycle.recipe import MetricGate, Recipe

ROOT = Path(__file__).resolve().parents[3]
LEAST = {
    "name": "iris",
    "data": {"source": "sklearn:iris"},
    "model": {"family": "linear"},
}


def read(**changes: Any) -> Recipe:
    return Recipe.from_dict({**LEAST, **changes}, Path("/recipes"))


@pytest.mark.parametrize("name", ["article", "digits"])
def test_the_examples_are_recipes(name: str) -> None:
    recipe = Recipe.load(ROOT / "examples" / name / "recipe.toml")
    assert recipe.name == name
    assert recipe.deploy is not None
    assert recipe.evaluate.gates


def test_missing_steps_are_none() -> None:
    recipe = read()
    assert (recipe.deploy, recipe.call, recipe.explain) == (None, None, None)
    assert recipe.build.data.directory == "/recipes"
    assert read(call={}).call == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evalute": {}}, "no key 'evalute'; did you mean 'evaluate'"),
        ({"deploy": {"replica": 1}}, r"\[deploy\] has no key 'replica'; did you mean 'replicas'"),
        ({"deploy": {"replicas": "two"}}, r"deploy\.replicas: Expected `int | null`, got `str`"),
        ({"deploy": {"replicas": -1}}, "replicas must be a whole number from 0"),
        ({"deploy": {"name": "A b"}}, "deploy.name must be 1 to 63"),
        ({"evaluate": {"gates": ["accuracy = 1"]}}, "a gate is METRIC >= NUMBER"),
        ({"evaluate": {"gates": ["accuracy >= 1.2.3"]}}, "bound is a number"),
        ({"explain": {"picture": "../../x.png"}}, "without a folder"),
        ({"explain": 1}, "explain must be a table"),
        ({"name": {}}, "name must be text"),
        ({"name": "../x"}, "name must be 1 to 63"),
        ({"training": {"epoch": 1}}, "epochs"),
    ],
)
def test_invalid_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(**changes)


@pytest.mark.parametrize("key", ["name", "data", "model"])
def test_required_keys_of_a_recipe(key: str) -> None:
    with pytest.raises(InvalidInput, match=f"a recipe needs {key}"):
        Recipe.from_dict({k: v for k, v in LEAST.items() if k != key}, Path())


def test_an_invalid_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = = 1\n")
    with pytest.raises(InvalidInput, match=r"broken\.toml: .*line 1"):
        Recipe.load(broken)
    with pytest.raises(InvalidInput, match=r"none\.toml: No such file"):
        Recipe.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("rule", "value", "passed"),
    [
        ("accuracy >= 0.97", 0.97, True),
        ("accuracy>=0.97", 0.9699, False),
        ("accuracy > 0.97", 0.97, False),
        ("accuracy < 1e-2", 0.001, True),
        ("accuracy <= -1", -1.5, True),
        ("accuracy >= 0.5", None, False),
    ],
)
def test_gates(rule: str, value: float | None, passed: bool) -> None:
    values = {"metrics": {"accuracy": value}, "intervals": {"accuracy": [0.9, 1.0]}}
    result = MetricGate.parse(rule).check(values)
    assert result.passed is passed
    assert result.interval == (0.9, 1.0)


def test_a_gate_over_an_unknown_metric_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no metric 'acuracy'; did you mean 'accuracy'"):
        MetricGate.parse("acuracy >= 0").check({"metrics": {"accuracy": 1.0}})

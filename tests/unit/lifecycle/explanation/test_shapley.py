"""Shapley values compared with closed forms and the definition, and on a trained model."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.signature import Signature, TensorSpec
from maas.lifecycle.explain import ExplainRequest, Explanation, explain
from maas.lifecycle.explanation.shapley import enumerate_coalitions, play, sample_permutations

Array = np.ndarray[Any, Any]


def signature(features: int, outputs: int = 1, labels: tuple[str, ...] = ()) -> Signature:
    return Signature(
        inputs=(TensorSpec("x", "FP64", (features,), units="cm", labels=labels),),
        outputs=(TensorSpec("y", "FP64", (outputs,), units="kg"),),
    )


def model(function: Callable[[Array], Array]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    return lambda inputs: {"y": function(inputs["x"])}


def shapley_of(explanation: Explanation) -> Array:
    return np.array([a.shapley for a in explanation.attributions])


def asking(function: Callable[[Array], Array], row: Array, background: Array) -> Any:
    return lambda masks, numbers: function(np.where(masks, row, background[numbers]))


def by_definition(function: Callable[[Array], Array], row: Array, background: Array) -> Array:
    """The definition: the mean gain over all permutations of the players."""
    players = len(row)
    values = np.zeros(players)
    for order in itertools.permutations(range(players)):
        rows = background.copy()
        before = function(rows).mean()
        for player in order:
            rows[:, player] = row[player]
            after = function(rows).mean()
            values[player] += (after - before) / math.factorial(players)
            before = after
    return values


def bent(rows: Array) -> Array:
    """A function of products, a kink and a sine, which is not additive."""
    return np.asarray(
        rows[:, 0] * rows[:, 1]
        + np.maximum(rows[:, 2], rows[:, 3])
        + np.sin(rows[:, 4]) * rows[:, 0]
        - rows[:, 1] * rows[:, 2] * rows[:, 3]
    )


@pytest.mark.parametrize("background_rows", [1, 7])
def test_a_linear_model_has_its_closed_form(background_rows: int) -> None:
    generator = np.random.default_rng(0)
    weights, row = generator.normal(size=30), generator.normal(size=30)
    background = generator.normal(size=(background_rows, 30))
    request = ExplainRequest(signature(30), {"x": row}, {"x": background}, samples=1024)
    explanation = explain(request, model(lambda x: x @ weights + 4))
    expected = weights * (row - background.mean(axis=0))
    np.testing.assert_allclose(shapley_of(explanation), expected, atol=1e-12)
    assert explanation.method == "antithetic permutation sampling"
    assert explanation.background_rows == background_rows
    assert explanation.baseline == pytest.approx((background @ weights + 4).mean())
    assert explanation.prediction == pytest.approx(row @ weights + 4)


def test_enumeration_equals_the_definition() -> None:
    generator = np.random.default_rng(1)
    row, background = generator.normal(size=5), generator.normal(size=(3, 5))
    result = enumerate_coalitions(asking(bent, row, background), 5, 3)
    np.testing.assert_allclose(result.values, by_definition(bent, row, background), atol=1e-12)


@pytest.mark.parametrize("background_rows", [1, 4])
def test_sampling_equals_the_definition_within_its_errors(background_rows: int) -> None:
    generator = np.random.default_rng(2)
    row, background = generator.normal(size=5), generator.normal(size=(background_rows, 5))
    ask = asking(bent, row, background)
    exact = by_definition(bent, row, background)
    result = sample_permutations(ask, 5, background_rows, samples=4000, seed=0)
    assert (np.abs(result.values - exact) <= 3 * result.standard_errors + 1e-12).all()
    assert result.standard_errors.max() < 0.1


@pytest.mark.parametrize("background_rows", [1, 6])
def test_standard_errors_match_the_spread_over_seeds(background_rows: int) -> None:
    generator = np.random.default_rng(3)
    row, background = generator.normal(size=5), generator.normal(size=(background_rows, 5))
    ask = asking(bent, row, background)
    many = [sample_permutations(ask, 5, background_rows, samples=400, seed=s) for s in range(200)]
    spread = np.std([m.values for m in many], axis=0)
    stated = np.mean([m.standard_errors for m in many], axis=0)
    np.testing.assert_allclose(stated, spread, rtol=0.2, atol=1e-9)


def test_reversed_orders_lower_the_spread() -> None:
    """In a sum of products, a permutation and its reverse have complementary gains."""
    row, background = np.ones(6), np.zeros((1, 6))
    ask = asking(
        lambda x: x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3] + x[:, 4] * x[:, 5], row, background
    )
    result = sample_permutations(ask, 6, 1, samples=100, seed=0)
    np.testing.assert_allclose(result.values, 0.5, atol=1e-12)
    np.testing.assert_allclose(result.standard_errors, 0, atol=1e-12)


def test_one_pair_per_background_row_includes_the_spread_between_rows() -> None:
    generator = np.random.default_rng(5)
    row, background = generator.normal(size=5), generator.normal(size=(40, 5))
    result = sample_permutations(asking(bent, row, background), 5, 40, samples=400, seed=0)
    exact = by_definition(bent, row, background)
    assert result.permutations == 2 * len(result.background) == 80
    assert (np.abs(result.values - exact) <= 3 * result.standard_errors).all()
    assert result.standard_errors.min() > 0


def test_equal_features_have_equal_values_and_unused_ones_zero() -> None:
    row, background = np.array([2.0, 2.0, 5.0, 1.0, 0.3]), np.zeros((1, 5))

    def function(x: Array) -> Array:
        return np.asarray(x[:, 0] * x[:, 1] * (1 + x[:, 3]) + x[:, 4] ** 2)

    ask = asking(function, row, background)
    exact = play(ask, 5, 1, samples=64, seed=0)
    assert exact.method == "all coalitions"
    assert exact.values[0] == pytest.approx(exact.values[1], abs=1e-12)
    assert exact.values[2] == 0.0
    sampled = sample_permutations(ask, 5, 1, samples=3000, seed=5)
    gap = abs(sampled.values[0] - sampled.values[1])
    assert gap <= 3 * (sampled.standard_errors[0] + sampled.standard_errors[1])
    assert sampled.values[2] == 0.0


@pytest.mark.parametrize("samples", [64, 300, 5000])
@pytest.mark.parametrize("background_rows", [1, 9, 90])
def test_values_add_up_for_any_budget(samples: int, background_rows: int) -> None:
    generator = np.random.default_rng(4)
    weights = generator.normal(size=(40, 8))
    request = ExplainRequest(
        signature(40),
        {"x": generator.normal(size=40)},
        {"x": generator.normal(size=(background_rows, 40))},
        samples=samples,
    )
    explanation = explain(request, model(lambda x: np.tanh(x @ weights).sum(axis=1)))
    assert abs(explanation.additivity_error) < 1e-9
    assert explanation.additivity_error == pytest.approx(
        explanation.prediction - explanation.baseline - shapley_of(explanation).sum(), abs=1e-15
    )
    if samples >= 1000:
        assert explanation.rows <= samples


def test_the_seed_determines_the_result() -> None:
    generator = np.random.default_rng(6)
    weights = generator.normal(size=(20, 4))

    def run(seed: int) -> Explanation:
        request = ExplainRequest(
            signature(20), {"x": np.ones(20)}, samples=500, seed=seed, batch_rows=33
        )
        return explain(request, model(lambda x: np.tanh(x @ weights).sum(axis=1)))

    assert run(1) == run(1)
    assert run(1).attributions != run(2).attributions


def test_calls_and_rows_are_counted_and_batches_bounded() -> None:
    seen: list[int] = []

    def counting(x: Array) -> Array:
        seen.append(len(x))
        return np.asarray(x.prod(axis=1))

    limited = Signature(signature(12).inputs, signature(12).outputs, max_rows=10)
    explanation = explain(
        ExplainRequest(limited, {"x": np.full(12, 1.1)}, samples=700), model(counting)
    )
    assert explanation.calls == len(seen)
    assert explanation.rows == sum(seen) <= 700
    assert max(seen) == 10


@pytest.mark.parametrize("features", range(1, 9))
def test_no_more_rows_than_samples(features: int) -> None:
    request = ExplainRequest(signature(features), {"x": np.ones(features)}, samples=64)
    explanation = explain(request, model(lambda x: x.prod(axis=1)))
    assert explanation.rows <= 64
    assert shapley_of(explanation).sum() == pytest.approx(1.0)


def test_features_have_names_units_and_values() -> None:
    request = ExplainRequest(
        signature(2, labels=("width", "height")), {"x": [3, 4]}, {"x": [[1, 1], [3, 1]]}
    )
    explanation = explain(request, model(lambda x: x[:, 0] * 2 + x[:, 1]))
    first, second = explanation.attributions
    assert (first.name, first.value, first.background, first.units) == ("width", 3.0, 2.0, "cm")
    assert (first.shapley, second.shapley) == pytest.approx((2.0, 3.0))
    assert (explanation.output, explanation.units, explanation.method) == (
        "y",
        "kg",
        "all coalitions",
    )
    assert [a.name for a in explanation.top(1)] == ["height"]
    assert Explanation.from_dict(json.loads(json.dumps(explanation.to_dict()))) == explanation
    assert explanation.evidence().how["seed"] == 0


def test_inputs_of_several_kinds_are_explained_together() -> None:
    several = Signature(
        inputs=(
            TensorSpec("age", "INT64", (1,), units="years"),
            TensorSpec("smokes", "BOOL", ()),
            TensorSpec("name", "BYTES", (1,)),
            TensorSpec("city", "BYTES"),
            TensorSpec("blood", "FP32", (2,), labels=("iron", "sugar")),
        ),
        outputs=(
            TensorSpec("label", "INT64", (1,)),
            TensorSpec("risk", "FP32", (2,), labels=("low", "high")),
        ),
    )

    def risk(inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert inputs["age"].dtype == np.int64
        assert inputs["smokes"].dtype == bool
        assert inputs["blood"].dtype == np.float32
        assert set(inputs["name"].ravel()) == {"Ada"}
        high = inputs["age"][:, 0] * 0.5 + inputs["smokes"] * 10 + inputs["blood"] @ [1, 2]
        return {"label": (high > 5)[:, None] * 1, "risk": np.stack([-high, high], axis=1)}

    row = {"age": 50, "smokes": True, "name": ["Ada"], "blood": [1.0, 2.0]}
    row = {**row, "city": np.array(["Oslo"], object)}  # as it comes from a body of JSON
    explanation = explain(ExplainRequest(several, row, target="high"), risk)
    assert {a.name: round(a.shapley, 6) for a in explanation.attributions} == {
        "age": 25.0,
        "smokes": 10.0,
        "blood.iron": 1.0,
        "blood.sugar": 4.0,
    }
    assert (explanation.output, explanation.target, explanation.label) == ("risk", 1, "high")
    with_background = explain(ExplainRequest(several, row, {"age": [[20.4], [30]]}, target=0), risk)
    assert [(a.name, round(a.shapley, 6)) for a in with_background.attributions] == [("age", -12.5)]
    assert with_background.attributions[0].background == 25.0


def test_large_images_are_explained_in_patches() -> None:
    spec = Signature((TensorSpec("pixels", "FP32", (3, 48, 64)),), (TensorSpec("y", "FP32", ()),))

    def bright_corner(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": inputs["pixels"][:, :, :12, :12].sum(axis=(1, 2, 3))}

    explanation = explain(ExplainRequest(spec, {"pixels": np.ones((3, 48, 64))}), bright_corner)
    assert explanation.image is not None
    assert len(explanation.attributions) <= 128
    assert (explanation.image.channels, explanation.image.height, explanation.image.width) == (
        3,
        48,
        64,
    )
    heat = explanation.heat()
    assert heat.shape == (48, 64)
    assert heat.sum() == pytest.approx(3 * 144)
    assert heat[:12, :12].sum() == pytest.approx(3 * 144)
    assert explanation.rows <= 2048


def test_a_flat_vector_can_be_an_image() -> None:
    request = ExplainRequest(signature(64), {"x": np.arange(64)}, image_shape=(8, 8))
    explanation = explain(request, model(lambda x: x.sum(axis=1)))
    np.testing.assert_allclose(explanation.heat(), np.arange(64).reshape(8, 8), atol=1e-9)
    assert explanation.attributions[9].name == "x[1, 1]"
    plain = explain(ExplainRequest(signature(64), {"x": np.arange(64)}), model(lambda x: x.sum(1)))
    with pytest.raises(InvalidInput, match="not of an image"):
        plain.heat()


def test_thousands_of_features_are_grouped() -> None:
    request = ExplainRequest(signature(5000), {"x": np.ones(5000)}, samples=64)
    explanation = explain(request, model(lambda x: x.sum(axis=1)))
    assert len(explanation.attributions) == 1000
    assert explanation.attributions[0].name == "x[0:5]"
    assert shapley_of(explanation) == pytest.approx(5.0)


def test_a_row_equal_to_its_background_has_zero_values() -> None:
    same = np.ones((200, 3))
    request = ExplainRequest(signature(3), {"x": [1, 1, 1]}, {"x": same}, samples=64)
    explanation = explain(request, model(lambda x: x.sum(axis=1)))
    assert (explanation.baseline, explanation.prediction, explanation.additivity_error) == (
        3.0,
        3.0,
        0.0,
    )
    assert shapley_of(explanation).tolist() == [0, 0, 0]


def test_removing_the_most_important_features_lowers_the_score_most() -> None:
    """Deletion test on a real classifier: removing the top pixels lowers the predicted score."""
    pixels, digits = load_digits(return_X_y=True)
    fitted = SGDClassifier(loss="log_loss", random_state=0).fit(pixels[:1000] / 16, digits[:1000])
    background = pixels[:1000].mean(axis=0) / 16
    generator = np.random.default_rng(0)
    top_drop, random_drop = [], []
    for row in pixels[1000:1008] / 16:
        request = ExplainRequest(
            signature(64, 10), {"x": row}, {"x": background[None]}, samples=1500, batch_rows=2000
        )
        explanation = explain(request, model(fitted.predict_proba))

        def drop(removed: Array, row: Array = row, explanation: Explanation = explanation) -> float:
            without = row.copy()
            without[removed] = background[removed]
            return float(
                explanation.prediction - fitted.predict_proba(without[None])[0, explanation.target]
            )

        top_drop.append(drop(np.argsort(-shapley_of(explanation))[:12]))
        random_drop.append(
            np.mean([drop(generator.choice(64, 12, replace=False)) for _ in range(20)])
        )
    assert np.mean(top_drop) > 0.4
    assert np.mean(top_drop) > 5 * np.mean(random_drop)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("inputs.x", {"row": {"x": [1, 2]}}),
        ("inputs.x", {"row": {"x": [1, float("nan"), 2]}}),
        ("inputs.x", {"row": {"x": ["a", "b", "c"]}}),
        ("inputs.x", {"row": {"x": [[1], [2, 3]]}}),
        ("inputs.x", {"row": {}}),
        ("inputs", {"row": {"x": [1, 2, 3], "z": 1}}),
        ("background.x", {"background": {"x": [[1, 2]]}}),
        ("background.x", {"background": {"x": []}}),
        ("background", {"background": {}}),
        ("background", {"background": {"z": [[1]]}}),
        ("output", {"output": "z"}),
        ("target", {"target": 2}),
        ("target", {"target": -1}),
        ("target", {"target": "cat"}),
        ("samples", {"samples": 10}),
        ("samples", {"samples": 20_000}),
        ("seed", {"seed": -1}),
        ("batch_rows", {"batch_rows": 0}),
        ("image_shape", {"image_shape": (2, 2)}),
        ("image_shape", {"image_shape": (3,)}),
    ],
)
def test_wrong_requests_are_refused_by_field(field: str, changes: dict[str, Any]) -> None:
    right: dict[str, Any] = {"signature": signature(3, 2), "row": {"x": [1, 2, 3]}}
    explain(ExplainRequest(**right), model(lambda x: x[:, :2]))
    with pytest.raises(InvalidInput) as refused:
        explain(ExplainRequest(**{**right, **changes}), model(lambda x: x[:, :2]))
    assert refused.value.details["field"] == field


def test_an_integer_input_refuses_fractions_and_overflow() -> None:
    spec = Signature((TensorSpec("n", "UINT8", (2,)),), (TensorSpec("y", "FP32", ()),))
    for value in ([0.5, 1], [-1, 1], [256, 1]):
        with pytest.raises(InvalidInput, match=r"inputs\.n"):
            explain(ExplainRequest(spec, {"n": value}), lambda i: {"y": i["n"].sum(axis=1)})


def test_an_invalid_prediction_is_refused() -> None:
    request = ExplainRequest(signature(3), {"x": [1, 2, 3]})
    with pytest.raises(InferenceFailed, match="not finite"):
        explain(request, model(lambda x: np.full(len(x), np.inf if len(x) > 1 else 1.0)))
    with pytest.raises(InferenceFailed, match="no output 'y'"):
        explain(request, lambda inputs: {})
    with pytest.raises(InferenceFailed, match=r"answered \[2, 3\]"):
        explain(request, model(lambda x: np.ones((2, 3))))

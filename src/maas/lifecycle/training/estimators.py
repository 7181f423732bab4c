"""scikit-learn estimators and pipelines, built by the same verb as networks."""

from __future__ import annotations

import warnings
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.data.dataset import Dataset
from maas.lifecycle.data.entrypoints import call_entry, load_entry
from maas.lifecycle.data.spec import ModelSpec
from maas.lifecycle.model_types import is_trainable_estimator


def make_estimator(spec: ModelSpec, task: Task, seed: int) -> Any:
    """An unfitted estimator or Pipeline; every unset random_state becomes `seed`.

    `spec.estimator` is a class, or a function that returns an estimator. Raises InvalidInput if
    it is neither, does not take the arguments, or is for another task.
    """
    from sklearn.base import is_classifier, is_regressor  # noqa: PLC0415  (0.5 s)
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    kind = load_entry(spec.estimator, spec.directory, "model.estimator")
    estimator = call_entry(kind, spec.arguments, spec.estimator, "model")
    if not is_trainable_estimator(estimator):
        raise InvalidInput(
            f"{spec.estimator} must be or return an estimator with fit and predict; "
            f"got {type(estimator).__name__}",
            field="model.estimator",
        )
    fits = is_regressor(estimator) if task is Task.REGRESSION else is_classifier(estimator)
    if not fits:
        raise InvalidInput(
            f"{spec.estimator} is not for a {task}; set data.task if the target is something else",
            field="model.estimator",
        )
    if spec.standardize:
        estimator = make_pipeline(StandardScaler(), estimator)
    unseeded = {
        name: seed
        for name, value in estimator.get_params().items()
        if name.rpartition("__")[2] == "random_state" and value is None
    }
    return estimator.set_params(**unseeded)


def fit_estimator(estimator: Any, train: Dataset) -> tuple[Any, list[str]]:
    """The estimator fitted on rows flattened to [n, features], and its warnings.

    Raises InvalidInput with the estimator's message if it cannot be fitted.
    """
    rows = train.x.reshape(len(train), -1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fitted = estimator.fit(rows, train.y)
        except (ValueError, TypeError) as error:
            raise InvalidInput(
                f"{type(estimator).__name__} cannot be fitted: {error}", field="model"
            ) from error
    return fitted, sorted({str(w.message) for w in caught})

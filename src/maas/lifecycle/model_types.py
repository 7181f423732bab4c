"""Predicates for models and data of other libraries, which they recognize without importing any."""

from __future__ import annotations

from typing import Any


def is_torch_module(model: object) -> bool:
    """Whether `model` has the methods of a `torch.nn.Module`."""
    return hasattr(model, "forward") and hasattr(model, "state_dict")


def is_estimator(model: object) -> bool:
    """Whether `model` is a scikit-learn estimator that predicts."""
    return hasattr(model, "predict") and hasattr(model, "get_params")


def is_trainable_estimator(model: object) -> bool:
    return hasattr(model, "fit") and hasattr(model, "predict")


def predicts_probabilities(estimator: object) -> bool:
    return hasattr(estimator, "predict_proba")


def is_tensor(value: object) -> bool:
    """Whether `value` is a PyTorch tensor."""
    return hasattr(value, "detach")


def tensor_to_array(value: Any) -> Any:
    """`value` as a NumPy array if it is a PyTorch tensor, else unchanged."""
    return value.detach().cpu().numpy() if is_tensor(value) else value


def table_to_array(value: Any) -> Any:
    """`value` as a NumPy array if it is a pandas or Polars table, else unchanged."""
    return value.to_numpy() if hasattr(value, "to_numpy") else value


def as_lists(value: Any) -> Any:
    """`value` as nested lists if it is an array or a tensor, else unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value

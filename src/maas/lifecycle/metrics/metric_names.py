"""Display names of metrics, their order, and whether lower is better."""

from __future__ import annotations

NAMES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "specificity": "Specificity",
    "agreement": "Agreement",
    "perplexity": "Perplexity",
    "f1": "F1",
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "ece": "Calibration error",
    "mae": "Mean absolute error",
    "rmse": "Root mean squared error",
    "r2": "R²",
    "median_absolute_error": "Median absolute error",
    "mape": "Mean absolute percentage error",
}
LOWER_IS_BETTER = {
    "log_loss", "brier", "ece", "mae", "rmse", "median_absolute_error", "mape",
}  # fmt: skip
IN_UNITS = {"mae", "rmse", "median_absolute_error"}
MAIN = (
    "accuracy", "f1_macro", "f1", "roc_auc", "roc_auc_macro", "log_loss", "ece",
    "r2", "mae", "rmse", "median_absolute_error",
)  # fmt: skip
"""Metrics shown first, in this order."""


def named(metric: str) -> str:
    """Display name of a metric: `F1, macro` for `f1_macro`, `Top-3 accuracy` for
    `top_3_accuracy`."""
    if metric.startswith("top_"):
        return f"Top-{metric.split('_')[1]} accuracy"
    for kind in ("macro", "weighted"):
        if metric.endswith(f"_{kind}"):
            return f"{NAMES.get(metric.removesuffix(f'_{kind}'), metric)}, {kind}"
    return NAMES.get(metric, metric)

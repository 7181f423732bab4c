"""Sources of models: one module per kind of source, each with one function `fetch`."""

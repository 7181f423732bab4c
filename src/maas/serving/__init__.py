"""The data plane without HTTP: from named tensors to an answer and back."""

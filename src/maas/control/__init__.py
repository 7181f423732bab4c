"""The control plane: the API for the desired state, and the reconciler that establishes it."""

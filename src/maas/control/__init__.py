"""The control plane: what shall be, as data behind an API, and the loop that makes it so."""

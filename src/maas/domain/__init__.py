"""Domain objects, their states, and all errors. Standard library only; no I/O."""

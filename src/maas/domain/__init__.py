"""Nouns, states and errors of OpenMaaS. Standard library only, no input or output."""

"""The data plane without HTTP: sends named tensors to replicas, which compute the answers."""

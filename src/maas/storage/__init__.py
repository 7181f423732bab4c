"""Persistent state: objects in a database, files in an artifact store."""

"""What must survive a restart: nouns in a database, files in an artifact store."""

"""The front door: HTTP, keys, protocols, routing, metering. Imports no ML library."""

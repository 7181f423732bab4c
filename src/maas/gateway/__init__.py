"""The public HTTP server: authentication, protocols, routing, metering. Imports no ML library."""

"""Doors from gRPC into the functions of tfbrats: an embedded server and a client."""

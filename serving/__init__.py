"""Doors from gRPC into the functions of tfbrats: an embedded server and a client."""

import tfbrats  # noqa: F401  # before gRPC and TensorFlow: it prepares the process of a command

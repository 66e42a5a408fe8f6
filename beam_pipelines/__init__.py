"""Doors from Apache Beam into the functions of tfbrats."""

import logging

import tfbrats  # noqa: F401  # before Beam: it prepares the process of a command

# Without the [gcp] extra Beam's import warns, on the root logger, of a client that nothing here needs.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())

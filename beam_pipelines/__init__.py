"""Doors from Apache Beam into the functions of tfbrats."""

import logging

# Without the [gcp] extra Beam's import warns, on the root logger, of a client that nothing here needs.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())

"""Doors from Apache Beam into the functions of tfbrats."""

import logging

import tfbrats  # noqa: F401  # before Beam: it prepares the process of a command
from tfbrats.machine import quiet


def _is_for_a_person(record: logging.LogRecord) -> bool:
    """Beam says some things on the root logger, where no level of its own holds them back."""
    # Without the [gcp] extra its import warns of a client that nothing here needs.
    if "apitools not found" in record.getMessage():
        return False
    return record.levelno >= logging.ERROR or "apache_beam" not in record.pathname or not quiet.is_wanted()


logging.getLogger().addFilter(_is_for_a_person)

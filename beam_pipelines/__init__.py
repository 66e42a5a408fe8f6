"""Doors from Apache Beam into the functions of tfbrats."""

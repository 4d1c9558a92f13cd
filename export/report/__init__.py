"""The report of an export."""

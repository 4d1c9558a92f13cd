"""Simulated int8 operators that match the exported file bit by bit."""

"""A campaign of damaged files against everything that reads a file."""

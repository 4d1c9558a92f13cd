"""Files of configs, JSON and outputs: read with checks, written whole."""

"""Names of parameters in other systems, one file a system."""

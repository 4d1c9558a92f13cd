"""Parameter names of other frameworks, one file per framework."""

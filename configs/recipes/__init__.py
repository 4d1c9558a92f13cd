"""Networks and training that the config pages of one source share."""

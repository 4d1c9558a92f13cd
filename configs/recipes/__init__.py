"""What the pages of one source share: its networks and its training."""

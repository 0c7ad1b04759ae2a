"""What was done to a model: as data, as tables, as a page."""

"""Data sources, the rating table and its split: files on disk -> RatingTable -> train, validation and test stages."""

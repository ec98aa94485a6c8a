"""Files on disk -> RatingTable -> split: who rated what, and which ratings are training, validation and test."""

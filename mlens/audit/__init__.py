"""The leak audit: a check, from the plan of a run, that no target sees a rating or tag it must not see."""

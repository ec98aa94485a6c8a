"""The leak audit: proof, from the plan of a run, that no target sees what it must not."""

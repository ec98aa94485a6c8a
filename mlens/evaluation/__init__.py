"""Engine + rows -> the probability of every legal rating -> metrics, predictions, baselines."""

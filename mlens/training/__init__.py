"""The training loop: schedule, early stopping, logs, experiment tracking, and the files in a run's folder."""

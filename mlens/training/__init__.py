"""The training loop: schedule, early stopping, logs, tracking, and the files in the run's folder."""

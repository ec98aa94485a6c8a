"""The loop: schedule, early stopping, logs, tracking, and what a run leaves in its folder."""

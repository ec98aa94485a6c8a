"""The commands: `mlens COMMAND`, one file each. They parse the command line and print the results of other modules."""

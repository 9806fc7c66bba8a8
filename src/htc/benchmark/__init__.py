"""Speed and memory of a model on this machine, by parts and in pairs on equal work, with the report."""

"""The command line: thin verbs over the packages, which are imported only when their verb runs."""

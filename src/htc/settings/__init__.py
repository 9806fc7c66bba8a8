"""Settings from files, environment variables and flags, laid over a preset or over a checkpoint's configuration.

`layers` merges them and validates the result once, `names` knows which settings exist, `messages` reports every fault
with its source. The configuration itself is `htc.config`.
"""

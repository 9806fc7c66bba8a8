"""Settings from files, environment variables and flags, which override a preset or a checkpoint's configuration.

`layers` merges them and validates the result once, `names` knows which settings exist, `messages` reports every fault
with its source. The configuration itself is `htc.config`.
"""

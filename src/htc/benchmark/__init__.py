"""How fast and how large: component times, paired comparisons, training steps, peak memory; see docs/performance.md."""

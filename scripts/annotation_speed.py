"""Times the reading of an annotation file of COCO's size, and its memory:
`uv run python scripts/annotation_speed.py [INSTANCES] [PART ...]`.
"""

import sys

from htc.benchmark.annotation_reading import INSTANCES, PARTS, reading_speed, report_lines

if __name__ == "__main__":
    parts = tuple(part for part in PARTS if part in sys.argv[2:]) or PARTS
    found = reading_speed(
        int(sys.argv[1]) if len(sys.argv) > 1 else INSTANCES, parts, lambda line: print(line, file=sys.stderr)
    )
    print("\n".join(report_lines(found)))

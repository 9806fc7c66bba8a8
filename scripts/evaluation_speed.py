"""Times the evaluation against pycocotools, from predictions to numbers:
`uv run python scripts/evaluation_speed.py [IMAGES]`.
"""

import sys

from htc.benchmark.scoring import scoring_speed

found = scoring_speed(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
print(
    f"{found.images} images, {found.objects} objects, {found.results} results; processor seconds for all numbers "
    f"of boxes and masks"
)
print(
    f"htc {found.ours:.1f}, pycocotools {found.pycocotools:.1f}: {found.ratio:.1f} times faster; largest difference "
    f"of AP {found.difference:.0e}"
)

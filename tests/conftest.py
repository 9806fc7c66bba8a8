"""Settings of every test process: one thread each (xdist runs several) and shape checks of all annotated tensors."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before torch and numpy are imported

from hypothesis import settings
from jaxtyping import install_import_hook

CHECKED = ("htc.ops", "htc.types", "htc.model", "htc.data", "htc.results", "htc.training")
install_import_hook(CHECKED, "shape_checks.check")

# The same examples in every run; `pytest --hypothesis-profile default` looks for new ones.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

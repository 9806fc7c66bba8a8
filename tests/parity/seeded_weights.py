"""Deterministic weights for the parity cases: no checkpoint needs to be stored.

Every parameter is drawn from its own PCG64 stream, keyed by the case's seed and the parameter's name, so the
values depend on nothing but (seed, name, shape).  NumPy documents PCG64's `random` as stable across versions and
machines; normals are made from it by Box-Muller here, so they do not depend on NumPy's own normal sampler.

    weights = seeded_state_dict(json.load(open("htc_r50_fpn/spec.json")), seed=0)   # name -> float32 array
"""

import hashlib

import numpy as np


def _stream(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))


def _uniform(rng, shape, low, high):
    return (low + (high - low) * rng.random(int(np.prod(shape)), dtype=np.float64)).reshape(shape)


def _normal(rng, shape, std):
    n = int(np.prod(shape))
    u = rng.random(n + (n % 2), dtype=np.float32).reshape(2, -1)
    radius = np.sqrt(-2.0 * np.log1p(-u[0]))
    z = np.concatenate([radius * np.cos(2 * np.pi * u[1]), radius * np.sin(2 * np.pi * u[1])])[:n]
    return (z * np.float32(std)).reshape(shape)


# Output layers are scaled so that scores, boxes and masks differ clearly from one another; first match wins.
_OUTPUT_STD = (
    ("neck.", 0.8),
    ("rpn_cls", 1.0),
    ("rpn_reg", 0.2),
    ("fc_cls", 4.0),
    ("fc_reg", 1.0),
    ("shared_fcs", 1.0),
    ("mask_head", None),
    ("semantic_head.conv_logits", 4.0),
    ("semantic_head", 1.2),
    ("conv_offset", 0.2),
    ("conv_loc", 4.0),
    ("conv_shape", 0.1),
)
# Features are rectified, so their mean is large; rows that sum to zero keep one class from winning everywhere.
_ZERO_SUM = ("rpn_cls", "rpn_reg", "fc_cls", "fc_reg", "shared_fcs", "conv_logits", "conv_loc", "conv_shape")


def seeded_state_dict(spec: dict, seed: int) -> dict:
    """`spec`: parameter name -> shape, as in a case's spec.json.  Returns name -> NumPy array (float32, or int64 0)."""
    out = {}
    for name, shape in spec.items():
        rng, leaf = _stream(seed, name), name.rsplit(".", 1)[-1]
        stem = name.rsplit(".", 1)[0]
        is_norm = f"{stem}.running_var" in spec
        if leaf == "num_batches_tracked":
            out[name] = np.zeros((), dtype=np.int64)
            continue
        if leaf == "running_mean":
            value = _normal(rng, shape, 0.1)
        elif leaf == "running_var":
            value = _uniform(rng, shape, 0.5, 1.5)
        elif is_norm and leaf == "weight":
            # the last norm of a residual branch is small, so that deep networks keep their scale
            low, high = (0.1, 0.3) if stem.endswith(("bn3", "downsample.1")) else (0.6, 1.2)
            if stem.endswith("downsample.1"):
                low, high = 0.6, 1.2
            value = _uniform(rng, shape, low, high)
        elif leaf == "bias":
            value = _normal(rng, shape, 0.3 if "fc_cls" in name else 0.05)
        else:
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
            if "upsample" in name:  # transposed convolution: weight is (in, out, k, k)
                fan_in = shape[0]
            std = np.sqrt(2.0 / fan_in)
            for key, gain in _OUTPUT_STD:
                if key in name:
                    if gain is None:
                        gain = 5.0 if "conv_logits" in name else 1.1
                    std = gain / np.sqrt(fan_in)
                    break
            value = _normal(rng, shape, std)
            if any(key in name for key in _ZERO_SUM):
                value = value - value.mean(axis=tuple(range(1, value.ndim)), keepdims=True)
        out[name] = np.ascontiguousarray(value, dtype=np.float32)
    return out

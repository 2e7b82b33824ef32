"""Generate C99 from an integer network or from a float policy."""

from __future__ import annotations

from pops.policy import NumpyPolicy
from pops.spec import PolicySpec
from pops_export.c.options import COptions
from pops_export.int8.network import IntegerNetwork


def generate_int8(network: IntegerNetwork, spec: PolicySpec, options: COptions) -> dict[str, str]:
    """Generate the int8 policy.

    Returns:
        File name to text: `<prefix>.h` and `<prefix>.c`, or an Arduino library folder.

    Raises:
        UsageError: if the network holds something that the C lacks.
    """
    raise NotImplementedError


def generate_float(policy: NumpyPolicy, options: COptions) -> dict[str, str]:
    """Generate the float32 policy; as `generate_int8`."""
    raise NotImplementedError

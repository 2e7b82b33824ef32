"""Generate C99 from an integer network or from a float policy."""

from __future__ import annotations

from typing import Any

from pops.policy import NumpyPolicy
from pops.spec import PolicySpec
from pops_export.c.arduino import library
from pops_export.c.float32 import float_context
from pops_export.c.int8 import int8_context
from pops_export.c.options import COptions
from pops_export.c.text import render
from pops_export.int8.network import IntegerNetwork


def generate_int8(network: IntegerNetwork, spec: PolicySpec, options: COptions) -> dict[str, str]:
    """Generate the int8 policy.

    Returns:
        File name to text: `<prefix>.h` and `<prefix>.c`, or an Arduino library folder.

    Raises:
        UsageError: if the network holds something that the C lacks.
    """
    return _files("int8.c.j2", int8_context(network, spec, options), options)


def generate_float(policy: NumpyPolicy, options: COptions) -> dict[str, str]:
    """Generate the float32 policy; as `generate_int8`."""
    return _files("float.c.j2", float_context(policy, options), options)


def _files(template: str, context: dict[str, Any], options: COptions) -> dict[str, str]:
    p = options.prefix
    sources = {f"{p}.h": render("header.h.j2", context), f"{p}.c": render(template, context)}
    return library(sources, context, options) if options.arduino else sources

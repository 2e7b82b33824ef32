"""The cores that generated C is measured on, and the machines that QEMU has for them."""

from __future__ import annotations

from dataclasses import dataclass

from pops.errors import UsageError


@dataclass(frozen=True)
class Core:
    """A core, the machine that QEMU has for it, and how to compile for it."""

    machine: str
    cpu: str
    flags: tuple[str, ...]
    systick_hz: int
    flash: tuple[int, int]
    """First address and bytes."""
    ram: tuple[int, int]
    stack_paint: int
    """Bytes of stack that are painted, more than any policy here takes."""
    constants: tuple[int, int] | None = None
    """Where the machine has memory for large constants, if not in flash."""


MPS2_FLASH = (0x0, 4 << 20)
MPS2_RAM = (0x2000_0000, 4 << 20)
MPS2_CONSTANTS = (0x2100_0000, 16 << 20)
"""PSRAM: the emulated machine's place for networks with millions of weights."""
CORE_FACTS = {
    "cortex-m0": Core(
        "microbit", "cortex-m0", (), 16_000_000, (0x0, 256 << 10), (0x2000_0000, 16 << 10), 2048
    ),
    "cortex-m3": Core(
        "mps2-an385",
        "cortex-m3",
        (),
        25_000_000,
        MPS2_FLASH,
        MPS2_RAM,
        8192,
        MPS2_CONSTANTS,
    ),
    "cortex-m4": Core(
        "mps2-an386",
        "cortex-m4",
        ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
        25_000_000,
        MPS2_FLASH,
        MPS2_RAM,
        8192,
        MPS2_CONSTANTS,
    ),
    "cortex-m7": Core(
        "mps2-an500",
        "cortex-m7",
        ("-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
        25_000_000,
        MPS2_FLASH,
        MPS2_RAM,
        8192,
        (0x6000_0000, 16 << 20),
    ),
    "cortex-m55": Core(
        "mps3-an547",
        "cortex-m55",
        ("-mfloat-abi=hard", "-mfpu=auto"),
        32_000_000,
        (0x0, 512 << 10),
        (0x2000_0000, 512 << 10),
        8192,
        (0x7000_0000, 16 << 20),  # DDR, at its secure address
    ),
}
CORES = tuple(CORE_FACTS)


def core_facts(core: str) -> Core:
    """Facts about a core by name.

    Raises:
        UsageError: if there is no such core.
    """
    if core not in CORE_FACTS:
        raise UsageError(f"Core {core!r} is unknown, expected one of: {', '.join(CORES)}.")
    return CORE_FACTS[core]

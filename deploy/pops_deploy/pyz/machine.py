"""What this device is: architecture, processor, memory, governor. Linux; blank where unreadable."""

from __future__ import annotations

import os
import platform
import struct
import sys
from pathlib import Path
from typing import Any


def architecture(machine: str, bits: int, cpu_features: str) -> str | None:
    """Which of the bundle's libraries this interpreter can load; None if none of them.

    Args:
        machine: `platform.machine()`.
        bits: size of a pointer. A 64-bit kernel under a 32-bit system (the usual
            Raspberry Pi OS) says aarch64 and loads 32-bit libraries.
        cpu_features: the processor's feature words; the armv7 library needs `neon`,
            which every 64-bit processor has under another name (`asimd`).
    """
    words = cpu_features.split()
    if machine in ("x86_64", "amd64", "AMD64"):
        return "x86_64" if bits == 64 else None
    if machine in ("aarch64", "arm64") and bits == 64:
        return "aarch64"
    if machine in ("aarch64", "arm64") or machine.startswith("armv8"):
        return "armv7"
    if machine.startswith("armv7"):
        return "armv7" if "neon" in words or "asimd" in words or not words else "armv6"
    return "armv6" if machine.startswith("armv6") else None


def this_architecture() -> str | None:
    """`architecture` of the machine that runs this."""
    bits = 8 * struct.calcsize("P")
    if sys.platform != "linux":
        return None
    return architecture(platform.machine(), bits, cpu_line("Features"))


def cpu_line(name: str) -> str:
    """The first value of a line of /proc/cpuinfo; empty where there is none."""
    for line in read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def read(path: str) -> str:
    """The text of a small file; empty where it cannot be read."""
    try:
        return Path(path).read_bytes().decode(errors="replace").strip("\0 \n")
    except OSError:
        return ""


def memory_bytes(name: str) -> int | None:
    """A field of /proc/meminfo in bytes, for example MemTotal."""
    return _kib_field(read("/proc/meminfo"), name)


def process_bytes(name: str) -> int | None:
    """A field of /proc/self/status in bytes: VmRSS (resident now), VmHWM (its peak)."""
    return _kib_field(read("/proc/self/status"), name)


def _kib_field(text: str, name: str) -> int | None:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return 1024 * int(value.split()[0])
    return None


def facts() -> dict[str, Any]:
    """What stands beside every measurement; JSON-ready."""
    governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    frequency = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq")
    temperature = read("/sys/class/thermal/thermal_zone0/temp")
    return {
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "library_architecture": this_architecture(),
        "model": read("/proc/device-tree/model") or None,
        "processor": cpu_line("model name") or cpu_line("Model") or None,
        "cores": os.cpu_count(),
        "governor": governor or None,
        "max_frequency_hz": 1000 * int(frequency) if frequency.isdigit() else None,
        "temperature_celsius": int(temperature) / 1000 if temperature.isdigit() else None,
        "memory_bytes": memory_bytes("MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
    }

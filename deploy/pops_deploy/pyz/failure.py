"""What goes wrong on the device, in one message each."""

from __future__ import annotations


class DeviceError(Exception):
    """Something that a user can understand and act on."""


class RuntimeMissing(DeviceError):
    """A runtime's library is not installed on this device, or does not exist for it."""

    def __init__(self, package: str, message: str) -> None:
        super().__init__(message)
        self.package = package


class FileDamaged(DeviceError):
    """The bundle's bytes are not those that were bundled."""


class SelfTestFailed(DeviceError):
    """A policy does not compute its golden vectors on this device."""

"""Generated C to small shared libraries for the architectures that a bundle carries."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pops.errors import PopsError

COMPILE_SECONDS = 300


@dataclass(frozen=True)
class Architecture:
    """A kind of Linux machine, and how to compile for it."""

    name: str
    compiler: str
    package: str
    """The Debian package that holds the compiler."""
    headers: str
    """The Debian package that holds the C library's headers for it."""
    flags: tuple[str, ...]


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(
            "x86_64",
            "x86_64-linux-gnu-gcc",
            "gcc-x86-64-linux-gnu",
            "libc6-dev",
            ("-march=x86-64",),
        ),
        Architecture(
            "aarch64", "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", ()
        ),
        Architecture(
            "armv7",
            "arm-linux-gnueabihf-gcc",
            "gcc-arm-linux-gnueabihf",
            "libc6-dev-armhf-cross",
            ("-march=armv7-a", "-mfpu=neon", "-mfloat-abi=hard", "-mthumb"),
        ),
        Architecture(
            "armv6",
            "arm-linux-gnueabihf-gcc",
            "gcc-arm-linux-gnueabihf",
            "libc6-dev-armhf-cross",
            ("-march=armv6", "-mfpu=vfp", "-mfloat-abi=hard", "-marm"),
        ),
    )
}
"""armv7 needs NEON (every Raspberry Pi from the 2 on has it); armv6 is the Pi 1 and Zero."""

FLAGS = (
    "-std=c99",
    "-O3",
    # Contraction would round once where the golden vectors' arithmetic rounds twice.
    "-ffp-contract=off",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-asynchronous-unwind-tables",
)
FREESTANDING = ("-ffreestanding", "-fno-builtin", "-fno-tree-loop-distribute-patterns")
LINK = (
    "-shared",
    "-nostdlib",
    # An undefined name would only be found missing on the device.
    "-Wl,-z,defs",
    "-Wl,-Bsymbolic",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
    # Nothing here is relocated after loading; read-only relocations would only pad to a page,
    # which is 64 KiB on aarch64.
    "-Wl,-z,norelro",
    "-Wl,-z,noseparate-code",
    "-Wl,--hash-style=gnu",
    # Kernels with pages of 16 KiB (Raspberry Pi 5) and 64 KiB load nothing aligned to less.
    "-Wl,-z,max-page-size=65536",
    "-s",
)

_HERE = Path(__file__).resolve().parent


def find_compiler(architecture: Architecture) -> str:
    """The path of the compiler.

    Raises:
        PopsError: if it is not installed; names the Debian package.
    """
    found = shutil.which(architecture.compiler)
    if found is None:
        raise PopsError(
            f"The compiler for {architecture.name}, {architecture.compiler}, is not installed. "
            f"Install it with: apt install {architecture.package}; or leave {architecture.name} "
            "out with --architectures."
        )
    return found


def compiler_version(architecture: Architecture) -> str:
    """The first line of the compiler's `--version`."""
    command = [find_compiler(architecture), "--version"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return text.splitlines()[0]


@dataclass(frozen=True)
class Library:
    """A shared library for one architecture."""

    data: bytes
    code_bytes: int
    """Of the policy alone: its machine code and constants."""


def compile_library(architecture: Architecture, source: Path, header: Path, prefix: str) -> Library:
    """Compile one generated policy into a shared library that needs no other.

    Args:
        architecture: what to compile for.
        source: the generated .c file.
        header: its header, which states the sizes.
        prefix: the prefix of its names, for example "policy".

    Returns:
        The library; the same bytes for the same sources and compiler.

    Raises:
        PopsError: if the compiler is missing or refuses the source.
    """
    compiler = find_compiler(architecture)
    with tempfile.TemporaryDirectory(prefix="pops-cross-") as folder:
        library = Path(folder) / "policy.so"
        support, policy = Path(folder) / "freestanding.o", Path(folder) / "policy.o"
        common = [compiler, *architecture.flags, *FLAGS]
        _run(
            [*common, *FREESTANDING, "-c", str(_HERE / "freestanding.c"), "-o", str(support)],
            architecture,
        )
        include = f"-I{header.parent}"
        _run([*common, include, "-c", str(source), "-o", str(policy)], architecture)
        names = [
            f'-DPOLICY_HEADER="{header.name}"',
            f"-DPREFIX={prefix}",
            f"-DUPPER={prefix.upper()}",
            include,
        ]
        files = [str(_HERE / "shim.c"), str(policy), str(support)]
        _run([*common, *names, *files, *LINK, "-o", str(library)], architecture)
        return Library(library.read_bytes(), _code_bytes(compiler, policy))


def _code_bytes(compiler: str, compiled: Path) -> int:
    """Text and data of an object file, as the compiler's own `size` counts them."""
    tool = compiler[: -len("gcc")] + "size"
    try:
        done = subprocess.run(
            [tool, str(compiled)], capture_output=True, text=True, check=True, timeout=60
        )
        text, data = done.stdout.splitlines()[1].split()[:2]
        return int(text) + int(data)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return compiled.stat().st_size


def _run(command: list[str], architecture: Architecture) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PopsError(
            f"{architecture.compiler} did not finish within {COMPILE_SECONDS} s; the policy is "
            f"too large to compile for {architecture.name} here. Leave it out with "
            "--architectures."
        ) from error
    if done.returncode != 0:
        lines = [
            line for line in done.stderr.splitlines() if "error" in line or "undefined" in line
        ]
        reason = (lines or done.stderr.splitlines() or ["no message"])[0]
        if ".h: No such file or directory" in done.stderr:
            raise PopsError(
                f"{architecture.compiler} has no C library headers for {architecture.name}. "
                f"Install them with: apt install {architecture.headers}"
            )
        raise PopsError(
            f"{architecture.compiler} does not compile the policy for {architecture.name}: "
            f"{reason}. Export it again, or leave {architecture.name} out with --architectures."
        )

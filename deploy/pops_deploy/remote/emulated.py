"""An emulated Raspberry-Pi-class machine: Debian's Python for it, unpacked, under QEMU.

No board, no container, no root: packages are fetched with apt into folders of their
own, so that the system's apt is not changed, and unpacked; QEMU runs the programs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pops.artifact import write_json
from pops.errors import PopsError
from pops_deploy.remote.session import stop

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DOWNLOAD_SECONDS = 600
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")


@dataclass(frozen=True)
class Wheel:
    """A Python package for the emulated machine, with the hash that its file must have."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Machine:
    """What is emulated."""

    name: str
    debian: str
    """Debian's name of the architecture."""
    emulator: str
    cpu: str
    packages: tuple[str, ...]
    wheels: tuple[Wheel, ...] = ()


AARCH64 = Machine(
    "aarch64",
    "arm64",
    "qemu-aarch64-static",
    "cortex-a72",
    ("python3-minimal", "libpython3.11-stdlib", "libstdc++6"),
    # The newest that run under QEMU 7.2; newer ones crash in static initialisers there.
    (
        Wheel(
            "numpy", "1.26.4", "7ab55401287bfec946ced39700c053796e7cc0e3acbef09993a9ad2adba6ca6e"
        ),
        Wheel(
            "tflite-runtime",
            "2.14.0",
            "ce9fa5d770a9725c746dcbf6f59f3178233b3759f09982e8b2db8d2234c333b0",
        ),
        Wheel(
            "onnxruntime",
            "1.17.3",
            "a058b39801baefe454eeb8acf3ada298c55a06a4896fafc224c02d79e9037f60",
        ),
    ),
)
"""A Raspberry Pi 4 under a 64-bit system."""
ARMV7 = Machine(
    "armv7",
    "armhf",
    "qemu-arm-static",
    "cortex-a15",
    ("python3-minimal", "libpython3.11-stdlib"),
)
"""A 32-bit system: no wheels exist, so only the generated C runs."""


def cache_folder() -> Path:
    """Where unpacked machines are kept: XDG_CACHE_HOME/pops, ~/.cache/pops by default."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pops"


def find_tool(program: str, package: str) -> str:
    """The path of a program.

    Raises:
        PopsError: if it is not installed; names the Debian package.
    """
    found = shutil.which(program)
    if found is None:
        raise PopsError(
            f"The emulated Raspberry Pi needs {program}, which is not installed. "
            f"Install it with: apt install {package}"
        )
    return found


def machine_folder(machine: Machine) -> Path:
    """The unpacked machine: `root/` (Debian) and `site/` (wheels); made on the first call.

    Raises:
        PopsError: if a tool is missing (names the package) or the download fails.
    """
    find_tool(machine.emulator, "qemu-user-static")
    recipe = json.dumps([asdict(machine), SUITE], sort_keys=True)
    tag = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folder = cache_folder() / f"{SUITE}-{machine.debian}-{tag}"
    if (folder / "complete.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        packages = _fetch_packages(machine, beside)
        _fetch_wheels(machine, beside)
        facts = {"packages": packages, "wheels": [asdict(wheel) for wheel in machine.wheels]}
        write_json(beside / "complete.json", facts)
        # Another process may have been faster; its folder is as good.
        with contextlib.suppress(OSError):
            os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _fetch_packages(machine: Machine, folder: Path) -> list[str]:
    """Unpack Debian's packages into `root`; their file names."""
    apt, dpkg = find_tool("apt-get", "apt"), find_tool("dpkg", "dpkg")
    if not KEYRING.is_file():
        raise PopsError(
            f"Debian's packages are checked with {KEYRING}, which is not there. "
            "Install it with: apt install debian-archive-keyring"
        )
    root = folder / "root"
    root.mkdir()
    with tempfile.TemporaryDirectory(prefix="pops-apt-") as private:
        configuration = _private_apt(machine, Path(private))
        environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}
        names = list(machine.packages)
        for arguments in (["update"], ["install", "-y", "-d", *names]):
            _download([apt, "-q", *arguments], environment, "Debian's packages")
        archives = sorted((Path(private) / "cache" / "archives").glob("*.deb"))
        for archive in archives:
            _download([dpkg, "-x", str(archive), str(root)], environment, archive.name)
        return [archive.name for archive in archives]


def _mirror_of_this_machine() -> str:
    """Where this machine's own apt finds Debian's `SUITE`.

    Raises:
        PopsError: if its sources name no such mirror.
    """
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(ORIGIN) $(SITE)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for line in listing.splitlines():
        codename, _, rest = line.partition(" ")
        origin, _, site = rest.partition(" ")
        if codename == SUITE and origin == "Debian":
            return site
    raise PopsError(
        f"apt-get on this machine knows no mirror of Debian {SUITE}, from which the emulated "
        "machine gets its Python. Run apt-get update, or name a mirror in POPS_DEBIAN_MIRROR."
    )


def _private_apt(machine: Machine, folder: Path) -> Path:
    """An apt configuration that reads and writes nothing of the system's but its proxies."""
    for name in ("lists/partial", "cache/archives/partial", "etc"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    mirror = os.environ.get("POPS_DEBIAN_MIRROR") or _mirror_of_this_machine()
    (folder / "sources.list").write_text(
        f"deb [arch={machine.debian} signed-by={KEYRING}] {mirror} {SUITE} main\n"
    )
    options = {
        "APT::Architecture": machine.debian,
        "APT::Architectures": machine.debian,
        "APT::Install-Recommends": "false",
        # Run by root, apt would fetch as another user, who may not write here.
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Dir::State": str(folder),
        "Dir::State::lists": str(folder / "lists"),
        "Dir::State::status": str(folder / "status"),
        "Dir::Cache": str(folder / "cache"),
        "Dir::Etc": str(folder / "etc"),
        "Dir::Etc::sourcelist": str(folder / "sources.list"),
        "Dir::Log": str(folder),
    }
    text = "".join(f'{name} "{value}";\n' for name, value in options.items())
    dump = [find_tool("apt-config", "apt"), "dump", "Acquire"]
    system = subprocess.run(dump, capture_output=True, text=True, check=False).stdout
    proxies = [line for line in system.splitlines() if line.startswith("Acquire::http")]
    path = folder / "apt.conf"
    path.write_text(text + "\n".join(proxies) + "\n")
    return path


def _fetch_wheels(machine: Machine, folder: Path) -> None:
    """Unpack the wheels into `site`; every file's hash is checked by pip."""
    site = folder / "site"
    site.mkdir()
    if not machine.wheels:
        return
    with tempfile.TemporaryDirectory(prefix="pops-wheels-") as private:
        wanted = Path(private) / "requirements.txt"
        wanted.write_text(
            "".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in machine.wheels)
        )
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
        command += ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp"]
        command += ["--abi=cp311", *(f"--platform={p}_{machine.name}" for p in PLATFORMS)]
        command += ["--disable-pip-version-check", "-d", private, "-r", str(wanted)]
        _download(command, dict(os.environ), "the wheels for the emulated machine")
        for wheel in sorted(Path(private).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)


def _download(command: list[str], environment: dict[str, str], what: str) -> None:
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PopsError(
            f"Fetching {what} took more than {DOWNLOAD_SECONDS} s. Check the network, then run "
            "the command again."
        ) from error
    if done.returncode != 0:
        if "No module named pip" in done.stderr:
            raise PopsError(
                f"Fetching {what} needs pip, which this Python does not have. Install it with: "
                "apt install python3-pip, or python3 -m ensurepip"
            )
        signs = ("E: ", "ERROR", "dpkg")
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        said = next((line for line in lines if line.startswith(signs)), lines[-1])
        raise PopsError(
            f"Fetching {what} failed ({said.strip()}). Check the network and the proxy settings, "
            "then run the command again."
        )


def emulated_command(machine: Machine, folder: Path, arguments: list[str]) -> list[str]:
    """The command that runs the machine's Python with `arguments`."""
    root = folder / "root"
    python = root / "usr" / "bin" / "python3.11"
    emulator = find_tool(machine.emulator, "qemu-user-static")
    return [emulator, "-cpu", machine.cpu, "-L", str(root), str(python), "-s", *arguments]


def emulated_environment(folder: Path) -> dict[str, str]:
    """The variables that the emulated Python gets; nothing of this machine's Python."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": str(folder / "site"),
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }


def run_emulated(
    machine: Machine, folder: Path, arguments: list[str], timeout: float
) -> Iterator[bytes]:
    """Run the machine's Python and yield what it prints line by line.

    Raises:
        EmulationFailed: when it has ended with another status than 0.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            ["timeout", f"{timeout:.0f}", *emulated_command(machine, folder, arguments)],
            env=emulated_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdout is not None
        try:
            yield from process.stdout
            status = process.wait()
        finally:
            stop(process)
        errors.seek(0)
        text = errors.read(1 << 20).decode(errors="replace")
    if status != 0:
        raise EmulationFailed(machine, status, text)


class EmulationFailed(PopsError):
    """A program on the emulated machine ended with another status than 0."""

    def __init__(self, machine: Machine, status: int, errors: str) -> None:
        said: Any = [line for line in errors.strip().splitlines() if line]
        reason = said[-1] if said else f"it ended with status {status}"
        if status == 124:
            reason = "it took too long and was stopped"
        elif status in (75, 137, -9):
            reason = "it ran out of memory"
        super().__init__(f"On the emulated {machine.name} machine: {reason}")
        self.status = status

"""cortex-m0, -m3, -m4, -m7, -m55: generated C on an emulated core, counted in instructions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pops.errors import PopsError, UsageError
from pops.spec import Array
from pops_deploy.bench.boards import load_boards
from pops_deploy.bench.context import Context
from pops_deploy.bench.rows import McuFigures, ReturnFigure, Row
from pops_deploy.bench.subjects import Subject
from pops_deploy.config import BenchConfig
from pops_deploy.folder import KEYS, Artifact
from pops_deploy.targets.mcu.cores import CORES
from pops_deploy.targets.mcu.measure import McuMeasurement
from pops_deploy.targets.mcu.measure import measure as emulate
from pops_deploy.targets.mcu_static import StaticFigures, static_figures

PREFIX = "cortex-m"
FLAGS = ("-O3",)
TOO_LARGE = "The policy does not fit"
"""How the emulator's error begins where the code does not link for the core's machine."""
VISITED = 128
"""Visited observations that are replayed beside the golden ones."""
REPLAYED_MACS = 200_000_000
"""Multiply-accumulates that a replay may take; bounds the observations of large networks."""
REPLAYED_LEAST = 8
SECONDS = 60.0
SECONDS_A_MEGAMAC = 20.0
"""What the emulator may take."""


def measure(
    target: str, subjects: Sequence[Subject], config: BenchConfig, context: Context
) -> Iterator[Row]:
    """Yield a row for each policy and C file.

    Raises:
        UsageError: if there is no such core.
        PopsError: if the compiler or the emulator is missing (says which package), or no policy
            was exported to C.
    """
    if target not in CORES:
        raise UsageError(f"Core {target!r} is unknown, expected one of: {', '.join(CORES)}.")
    boards = [board for board in load_boards(config.boards) if board.core == target]
    if config.boards and not boards:
        context.note(f"None of the boards {', '.join(config.boards)} has a {target}.")
    found = False
    for subject in subjects:
        for file in config.files:
            artifact = subject.artifact
            if artifact is None or not artifact.has("c", file):
                continue
            found = True
            figures = _figures(artifact, subject, target, file)
            low, high = figures.instructions_min, figures.instructions
            counted = None if low is None or high is None else (low, high)
            if counted is None:
                context.note(
                    f"{subject.role} {subject.policy}, c {file} does not fit the machine that "
                    f"QEMU has for {target}, so its instructions were not counted."
                )
            judged = tuple(board.judge(counted, figures.flash, figures.ram) for board in boards)
            yield _row(target, subject, artifact, file, replace(figures, boards=judged))
    if not found:
        raise PopsError(
            f"{target} runs generated C, and none of these policies has it. Export with --format c."
        )


def _figures(artifact: Artifact, subject: Subject, core: str, file: str) -> McuFigures:
    policy = artifact.file("c", file)
    prefix = str(policy.facts["prefix"])
    paths = [policy.path, artifact.header(file)]
    sources = {path.name: path.read_text(encoding="utf-8") for path in paths}
    golden = artifact.golden()
    key = KEYS["c", file]
    chosen = _chosen(len(golden["observations"]), artifact.arch.macs)
    replayed = golden["observations"][chosen]
    expected = golden[f"{key}.actions"][chosen] if f"{key}.actions" in golden else None
    visited = subject.observations[: VISITED if len(chosen) == len(golden["observations"]) else 0]
    observations = np.concatenate([replayed, visited.astype(replayed.dtype)])
    given = _as_c_takes_it(artifact, observations)
    static = static_figures(sources, core, prefix, FLAGS)
    image = given[0].nbytes if len(artifact.spec.input_shape) == 3 else 0
    seconds = SECONDS + SECONDS_A_MEGAMAC * artifact.arch.macs / 1e6
    try:
        measured = emulate(sources, core, given, prefix, FLAGS, seconds)
    except PopsError as error:
        if not str(error).startswith(TOO_LARGE):
            raise
        return _unmeasured(core, static, int(policy.facts["scratch_bytes"]), image)
    mismatches = _mismatches(measured, expected, len(replayed))
    return _combine(measured, static, mismatches, len(replayed), image)


def _chosen(count: int, macs: int) -> Array:
    """Indices of the golden observations that are replayed: all, or some spread over them."""
    most = max(REPLAYED_LEAST, REPLAYED_MACS // max(1, macs))
    return np.unique(np.linspace(0, count - 1, min(count, most), dtype=int))


def _as_c_takes_it(artifact: Artifact, observations: Array) -> Array:
    """(N, observation size): float32, or uint8 with channels last."""
    spec = artifact.spec
    image = len(spec.input_shape) == 3
    x = np.moveaxis(observations, 1, -1) if image and not spec.channels_last else observations
    flat = np.asarray(x).reshape(len(x), -1)
    dtype = np.uint8 if image and spec.observation_dtype == "uint8" else np.float32
    return np.ascontiguousarray(flat, dtype)


def _mismatches(measured: McuMeasurement, expected: Array | None, count: int) -> int:
    if expected is None:
        return 0
    actions = np.asarray(measured.actions)[:count].reshape(count, -1)
    wanted = np.asarray(expected).reshape(count, -1)
    if wanted.dtype.kind == "f":
        # Contracted multiply-adds and another libm may move the last bits.
        return int((~np.isclose(actions, wanted, rtol=1e-4, atol=1e-5)).any(axis=1).sum())
    return int((actions != wanted).any(axis=1).sum())


def _combine(
    measured: McuMeasurement, static: StaticFigures, mismatches: int, golden: int, image: int
) -> McuFigures:
    static_ram = measured.data + measured.bss
    deepest = max(measured.stack, static.stack or 0)
    return McuFigures(
        core=measured.core,
        instructions=measured.maximum,
        instructions_min=measured.minimum,
        flash=measured.text + measured.rodata + measured.data + static.library,
        library=static.library,
        ram=static_ram + measured.scratch + deepest + image,
        static_ram=static_ram,
        scratch=measured.scratch,
        stack_static=static.stack,
        stack_painted=measured.stack,
        mismatches=mismatches,
        observations=golden,
        self_test=measured.self_test,
        image=image,
        compiler=static.compiler,
        flags=" ".join(FLAGS),
    )


def _unmeasured(core: str, static: StaticFigures, scratch: int, image: int) -> McuFigures:
    """What is known of code that is too large for the emulated machine."""
    return McuFigures(
        core=core,
        instructions=None,
        instructions_min=None,
        flash=static.flash,
        library=static.library,
        ram=scratch + (static.stack or 0) + image,
        static_ram=0,
        scratch=scratch,
        stack_static=static.stack,
        stack_painted=None,
        mismatches=0,
        observations=0,
        image=image,
        compiler=static.compiler,
        flags=" ".join(FLAGS),
    )


def _row(target: str, subject: Subject, artifact: Artifact, file: str, figures: McuFigures) -> Row:
    facts = artifact.files[KEYS["c", file]]
    return Row(
        target=target,
        role=subject.role,
        policy=subject.policy,
        num_parameters=subject.num_parameters,
        runtime="c",
        file=file,
        bytes=figures.flash,
        sha256=str(facts["sha256"]),
        mcu=figures,
        returns=ReturnFigure.of(facts.get("evaluation")),
        versions={"compiler": figures.compiler, "flags": figures.flags},
        notes=("instructions under an emulator, not a time",),
    )

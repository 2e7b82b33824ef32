"""What the figures say, in sentences: above all where a smaller policy is not a faster one."""

from __future__ import annotations

from collections.abc import Sequence

from pops_deploy.bench.rows import Row

LIBRARIES = ("onnx", "litert", "torch")


def in_words(rows: Sequence[Row]) -> list[str]:
    """Sentences about the rows of a bench."""
    real = [row for row in rows if not row.emulated]
    return [
        *_comparisons(real),
        *_int8_against_fp32(real),
        *_student_against_teacher(real),
        *_instructions_against_teacher(real),
        *_without_return(rows),
        *_different(rows),
    ]


def _cost(row: Row) -> float | None:
    if row.latency is not None:
        return row.latency.median
    return None if row.mcu is None else float(row.mcu.instructions or 0)


def _told(row: Row) -> str:
    if row.latency is not None:
        return f"{row.latency.median / 1000:.2f} µs"
    assert row.mcu is not None
    return f"{row.mcu.instructions:,} instructions"


def _slower(one: Row, other: Row) -> bool:
    """Whether `one` costs more than `other` beyond what their windows disagree by."""
    if one.latency is not None and other.latency is not None:
        return one.latency.low > other.latency.high and one.latency.median > other.latency.median
    if one.mcu is None or other.mcu is None:
        return False
    counts = one.mcu.instructions, other.mcu.instructions
    return counts[0] is not None and counts[1] is not None and counts[0] > counts[1]


def _comparisons(rows: Sequence[Row]) -> list[str]:
    """The student in C against the teacher's predict, and against the libraries."""
    result = []
    timed = [row for row in rows if row.latency is not None]
    compiled = [row for row in timed if row.role == "student" and row.runtime == "c"]
    for row in compiled:
        mine = max(1.0, _cost(row) or 1.0)
        peers = [r for r in timed if r.target == row.target]
        predict = [r for r in peers if r.role == "teacher" and r.runtime == "sb3"]
        if predict:
            ratio = (_cost(predict[0]) or 0.0) / mine
            result.append(
                f"{row.title} takes {_told(row)}, {ratio:,.0f} times faster than the teacher's "
                f"Stable-Baselines3 predict ({_told(predict[0])})."
            )
        libraries = [
            r
            for r in peers
            if r.role == "student" and r.policy == row.policy and r.runtime in LIBRARIES
        ]
        if libraries:
            best = min(libraries, key=lambda r: _cost(r) or 0.0)
            ratio = (_cost(best) or 0.0) / mine
            word = "faster" if ratio >= 1 else "as fast, so slower,"
            result.append(
                f"{row.title} is {ratio:.1f} times {word} than the best library on the same "
                f"student ({best.runtime} {best.file}, {_told(best)})."
            )
    return result


def _int8_against_fp32(rows: Sequence[Row]) -> list[str]:
    result = []
    for row in rows:
        for other in rows:
            same = (row.target, row.role, row.policy, row.runtime) == (
                other.target,
                other.role,
                other.policy,
                other.runtime,
            )
            if same and (row.file, other.file) == ("int8", "fp32") and _slower(row, other):
                result.append(
                    f"{row.title} on {row.target} is slower than fp32: {_told(row)} against "
                    f"{_told(other)}."
                )
    return result


def _student_against_teacher(rows: Sequence[Row]) -> list[str]:
    result = []
    for row in rows:
        for other in rows:
            same = (row.target, row.runtime, row.file) == (other.target, other.runtime, other.file)
            if same and (row.role, other.role) == ("student", "teacher") and _slower(row, other):
                result.append(
                    f"{row.title} on {row.target} is slower than its teacher: {_told(row)} "
                    f"against {_told(other)}."
                )
    return result


def _instructions_against_teacher(rows: Sequence[Row]) -> list[str]:
    """How many times fewer instructions the student takes in the same code."""
    counted = [row for row in rows if row.mcu is not None and row.mcu.instructions]
    teachers = {(row.target, row.file): row for row in counted if row.role == "teacher"}
    result = []
    for row in counted:
        teacher = teachers.get((row.target, row.file))
        if row.role != "student" or teacher is None or _slower(row, teacher):
            continue
        ratio = (_cost(teacher) or 0.0) / max(1.0, _cost(row) or 1.0)
        result.append(
            f"{row.title} on {row.target} takes {ratio:,.1f} times fewer instructions than its "
            f"teacher in the same code ({_told(row)} against {_told(teacher)})."
        )
    return result


def _without_return(rows: Sequence[Row]) -> list[str]:
    missing = sum(row.returns is None for row in rows)
    if not missing:
        return []
    return [
        f"{missing} of {len(rows)} rows have no return on file: a latency without a return says "
        "nothing about quality. Export with --episodes 100, or add --episodes here."
    ]


def _different(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row.title} on {row.target} computed {row.mcu.mismatches} of {row.mcu.observations} "
        "golden actions differently from the artifact."
        for row in rows
        if row.mcu is not None and row.mcu.mismatches
    ] + [
        f"{row.title} on {row.target} failed its own self-test (status {row.mcu.self_test})."
        for row in rows
        if row.mcu is not None and row.mcu.self_test
    ]

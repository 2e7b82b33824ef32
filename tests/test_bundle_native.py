"""What stands in for a C library in the bundle's libraries, and the armv6 code on its own core."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_fixtures import golden_artifact

from pops.artifact import read_arrays, read_json
from pops_deploy.remote.cross import ARCHITECTURES, FLAGS, FREESTANDING, LINK, find_compiler

pytestmark = pytest.mark.pi

SOURCES = Path(__file__).resolve().parents[1] / "deploy" / "pops_deploy" / "remote"

START = """\
#include <stdint.h>
#define NUMBER_OF_OBSERVATIONS {count}
int32_t pops_infer(const void *, void *, void *);
int32_t pops_act(const void *, void *, void *);
int32_t pops_self_test(void *);
static const float observations[] = {{{values}}};
static uint32_t results[3 * NUMBER_OF_OBSERVATIONS];
static uint32_t scratch[64];

static long call(long number, long a, long b, long c)
{{
    register long r7 __asm__("r7") = number;
    register long r0 __asm__("r0") = a;
    register long r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c;
    __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
    return r0;
}}

void start(void)
{{
    for (int i = 0; i < NUMBER_OF_OBSERVATIONS; i++) {{
        pops_infer(observations + 4 * i, results + 3 * i, scratch);
        pops_act(observations + 4 * i, results + 3 * i + 2, scratch);
    }}
    call(4, 1, (long)results, sizeof results);
    call(1, pops_self_test(scratch), 0, 0);
}}
__asm__(".globl _start\\n_start: bl start\\n");
"""


def test_armv6_computes_the_same_on_an_armv6_core(tmp_path: Path) -> None:
    folder = golden_artifact(tmp_path / "student")
    golden, facts = read_arrays(folder / "golden.npz"), read_json(folder / "artifact.json")
    for key in ("c_int8", "c_f32"):
        entry = facts["files"][key]
        x = golden["observations"]
        values = ", ".join(f"{v!r}f" for v in x.reshape(-1).astype(float).tolist())
        start = tmp_path / "start.c"
        start.write_text(START.format(count=len(x), values=values))
        program = tmp_path / key
        header = Path(entry["header"])
        armv6 = ARCHITECTURES["armv6"]
        common = [find_compiler(armv6), *armv6.flags, *FLAGS]
        subprocess.run(
            [*common, *FREESTANDING, "-c", SOURCES / "freestanding.c", "-o", tmp_path / "f.o"],
            check=True,
        )
        subprocess.run(
            [
                *common,
                f'-DPOLICY_HEADER="{header.name}"',
                f"-DPREFIX={entry['prefix']}",
                f"-DUPPER={entry['prefix'].upper()}",
                f"-I{folder / header.parent}",
                "-std=gnu99",
                *("-static", "-nostdlib", "-Wl,--gc-sections"),
                *(SOURCES / "shim.c", folder / entry["path"], tmp_path / "f.o", start),
                *("-o", program),
            ],
            check=True,
        )
        done = run_on_armv6(program)
        assert done.returncode == 0
        results = np.frombuffer(done.stdout, "<u4").reshape(-1, 3)
        outputs = np.ascontiguousarray(results[:, :2]).view("<f4")
        np.testing.assert_array_equal(outputs, golden[f"{key}.outputs"])
        np.testing.assert_array_equal(results[:, 2], golden[f"{key}.actions"])


def run_on_armv6(program: Path) -> subprocess.CompletedProcess[bytes]:
    emulator = shutil.which("qemu-arm-static")
    assert emulator is not None, "install it with: apt install qemu-user-static"
    command = [emulator, "-cpu", "arm1176", str(program)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def test_the_emulated_armv6_core_refuses_armv7_code(tmp_path: Path) -> None:
    """Or the test above would show nothing."""
    source = tmp_path / "v7.c"
    source.write_text('__asm__(".globl _start\\n_start: movw r0, #0\\n mov r7, #1\\n svc 0\\n");\n')
    armv7 = ARCHITECTURES["armv7"]
    command = [find_compiler(armv7), *armv7.flags, "-marm", "-static", "-nostdlib"]
    subprocess.run([*command, source, "-o", tmp_path / "v7"], check=True)
    assert run_on_armv6(tmp_path / "v7").returncode != 0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """freestanding.c as a library of this machine, its names with a prefix."""
    folder = tmp_path_factory.mktemp("freestanding")
    wrapper = folder / "all.c"
    names = ("exp", "tanh", "expf", "tanhf", "expm1f", "memcpy", "memmove", "memset", "memcmp")
    renames = "".join(f"#define {name} pops_{name}\n" for name in names)
    wrapper.write_text(
        "#include <stddef.h>\n" + renames + f'#include "{SOURCES / "freestanding.c"}"\n'
    )
    x86 = ARCHITECTURES["x86_64"]
    flags = [flag for flag in FLAGS if "visibility" not in flag]
    link = [flag for flag in LINK if "gc-sections" not in flag]
    out = folder / "f.so"
    command = [find_compiler(x86), *flags, *FREESTANDING, str(wrapper), *link, "-o", str(out)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(out))


@pytest.mark.parametrize(
    ("name", "low", "high"), [("tanhf", -30, 30), ("expf", -110, 95), ("expm1f", -30, 95)]
)
def test_functions_are_within_one_unit_in_the_last_place(
    library: Any, name: str, low: float, high: float
) -> None:
    function = getattr(library, f"pops_{name}")
    function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    random = np.random.default_rng(0)
    x = np.concatenate(
        [
            random.uniform(low, high, 20_000),
            random.uniform(-1, 1, 20_000) * 10.0 ** random.uniform(-40, 0, 20_000),
            [0.0625, -0.0625, 20.0, 88.7, 88.73, -87.4, -103.9, -104.1],
        ]
    ).astype(np.float32)
    exact = {"tanhf": np.tanh, "expf": np.exp, "expm1f": np.expm1}[name](x.astype(np.float64))
    with np.errstate(over="ignore"):
        expected = exact.astype(np.float32)
    found = np.array([function(v) for v in x.tolist()], np.float32)
    same = found == expected
    finite = np.isfinite(expected)
    error = np.abs(found[finite] - exact[finite]) / np.spacing(np.abs(expected[finite]))
    assert error.max() <= 0.51
    assert same.mean() > 0.999
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    for special in (0.0, -0.0, np.inf, -np.inf):
        value = function(special)
        reference = np.float32(
            {"tanhf": np.tanh, "expf": np.exp, "expm1f": np.expm1}[name](special)
        )
        assert value == reference, special
        assert np.signbit(value) == np.signbit(reference)
    assert np.isnan(function(float("nan")))


def test_memory_functions(library: Any) -> None:
    for name in ("memcpy", "memmove", "memset"):
        getattr(library, f"pops_{name}").restype = ctypes.c_void_p
    buffer = ctypes.create_string_buffer(b"abcdefgh")
    start = ctypes.addressof(buffer)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.pops_memmove(pointer(start + 2), pointer(start), size(5))
    assert buffer.value == b"ababcdeh"
    library.pops_memmove(pointer(start), pointer(start + 2), size(5))
    assert buffer.value == b"abcdedeh"
    library.pops_memcpy(pointer(start + 5), pointer(start), size(3))
    assert buffer.value == b"abcdeabc"
    library.pops_memset(pointer(start), 122, size(2))
    assert buffer.value == b"zzcdeabc"
    compare = library.pops_memcmp
    assert compare(b"abc", b"abd", size(2)) == 0
    assert compare(b"abc", b"abd", size(3)) == -1
    assert compare(b"\xff", b"\x01", size(1)) == 1


ARITHMETIC = """\
#include <stdint.h>
static const int64_t wide[] = {{{wide}}};
static const double real[] = {{{real}}};
static union {{ uint64_t u; double d; float f; int64_t i; uint32_t w[2]; }} results[8 * 512];

static long call(long number, long a, long b, long c)
{{
    register long r7 __asm__("r7") = number;
    register long r0 __asm__("r0") = a;
    register long r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c;
    __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
    return r0;
}}

void start(void)
{{
    int n = 0;
    for (int i = 0; i < {count}; i++) {{
        volatile int64_t v = wide[i];
        volatile double d = real[i];
        volatile int32_t a = (int32_t)v, b = (int32_t)(v >> 32);
        results[n++].f = (float)v;
        results[n++].f = (float)(uint64_t)v;
        results[n++].d = (double)v;
        results[n++].d = (double)(uint64_t)v;
        results[n++].i = (int64_t)d;
        results[n++].i = (int64_t)(float)d;
        results[n++].i = b == 0 || (a == INT32_MIN && b == -1) ? 0 : a / b * (int64_t)1000 + a % b;
        results[n++].u = b == 0 ? 0 : (uint32_t)a / (uint32_t)b * (uint64_t)1000
            + (uint32_t)a % (uint32_t)b;
    }}
    call(4, 1, (long)results, 8 * n);
    call(1, 0, 0, 0);
}}
__asm__(".globl _start\\n_start: bl start\\n");
"""


def test_run_time_calls_of_the_arm_abi(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    count = 500
    bits = random.integers(0, 64, count)
    wide = (random.integers(-(2**63), 2**63 - 1, count) >> bits).astype(np.int64)
    wide[:6] = [0, 1, -1, 2**63 - 1, -(2**63), 2**24 + 1]
    # Halfway between two floats, with a last bit that decides.
    wide[6:10] = [(2**40 + 2**16), (2**40 + 2**16) + 1, (2**40 + 3 * 2**16), -(2**40 + 2**16) - 1]
    real = np.where(bits < 40, wide * 1.0, random.normal(size=count) * 1e5)
    real = np.clip(real, -9.2e18, 9.2e18)
    source = tmp_path / "arithmetic.c"
    source.write_text(
        ARITHMETIC.format(
            count=count,
            wide=", ".join(f"(int64_t){int(v) & (2**64 - 1)}u" for v in wide),
            real=", ".join(float(v).hex() for v in real),
        )
    )
    armv6 = ARCHITECTURES["armv6"]
    common = [find_compiler(armv6), *armv6.flags, *FLAGS]
    support, program = tmp_path / "f.o", tmp_path / "arithmetic"
    subprocess.run(
        [*common, *FREESTANDING, "-c", SOURCES / "freestanding.c", "-o", support], check=True
    )
    subprocess.run(
        [*common, "-std=gnu99", "-static", "-nostdlib", source, support, "-o", program], check=True
    )
    done = run_on_armv6(program)
    assert done.returncode == 0
    raw = np.frombuffer(done.stdout, np.uint8).reshape(count, 8, 8)

    def column(index: int, dtype: str) -> Any:
        size = np.dtype(dtype).itemsize
        return np.ascontiguousarray(raw[:, index, :size]).view(dtype)[:, 0]

    unsigned = wide.view(np.uint64)
    np.testing.assert_array_equal(column(0, "<f4"), wide.astype(np.float32))
    np.testing.assert_array_equal(column(1, "<f4"), unsigned.astype(np.float32))
    np.testing.assert_array_equal(column(2, "<f8"), wide.astype(np.float64))
    np.testing.assert_array_equal(column(3, "<f8"), unsigned.astype(np.float64))
    np.testing.assert_array_equal(column(4, "<i8"), np.trunc(real).astype(np.int64))
    single = real.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(column(5, "<i8"), np.trunc(single).astype(np.int64))
    low, high = wide.astype(np.int32), (wide >> 32).astype(np.int32)
    for i in range(count):
        a, b = int(low[i]), int(high[i])
        if b == 0 or (a, b) == (-(2**31), -1):
            continue
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        assert column(6, "<i8")[i] == quotient * 1000 + (a - quotient * b)
        ua, ub = a % 2**32, b % 2**32
        assert column(7, "<u8")[i] == ua // ub * 1000 + ua % ub

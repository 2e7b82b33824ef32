"""Boards, and what gcc tells about stack and libraries before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_fixtures import small_policy, write_c

from pops.errors import PopsError, UsageError
from pops_deploy.bench.boards import FILES, load_boards, parse_board
from pops_deploy.bench.stack import read_callgraph, worst_stack
from pops_deploy.targets.mcu_static import static_figures

CALLGRAPH = """\
graph: { title: "policy.c"
node: { title: "policy.c:layer" label: "layer\\npolicy.c:3:38\\n16 bytes (static)" }
node: { title: "__aeabi_fadd" label: "__aeabi_fadd\\n<built-in>" shape : ellipse }
edge: { sourcename: "policy.c:layer" targetname: "__aeabi_fadd" }
node: { title: "policy_act" label: "policy_act\\npolicy.c:4:5\\n152 bytes (static)" }
edge: { sourcename: "policy_act" targetname: "policy.c:layer" label: "policy.c:4:82" }
node: { title: "policy_self_test" label: "policy_self_test\\npolicy.c:9:5\\n900 bytes (static)" }
}
"""

DISASSEMBLY = """\
00008000 <__aeabi_fadd>:
    8000:\tb5f0      \tpush\t{r4, r5, r6, r7, lr}
    8002:\tb083      \tsub\tsp, #12
    8004:\tf000 f800 \tbl\t8100 <normalise>
    8008:\tbdf0      \tpop\t{r4, r5, r6, r7, pc}

00008100 <normalise>:
    8100:\tb510      \tpush\t{r4, lr}
    8102:\tbd10      \tpop\t{r4, pc}
"""


def test_worst_stack_goes_on_into_library_code() -> None:
    assert worst_stack(["policy_act"], CALLGRAPH, DISASSEMBLY) == 152 + 16 + (20 + 12) + 8


def test_a_stack_without_a_bound_is_not_invented() -> None:
    recursive = CALLGRAPH + 'edge: { sourcename: "policy.c:layer" targetname: "policy_act" }'
    assert worst_stack(["policy_act"], recursive, DISASSEMBLY) is None
    assert worst_stack(["policy_act"], CALLGRAPH, "") is None
    dynamic = CALLGRAPH.replace("16 bytes (static)", "16 bytes (dynamic)")
    assert read_callgraph(dynamic).frames["policy.c:layer"] is None
    assert worst_stack(["policy_act"], dynamic, DISASSEMBLY) is None
    stored = DISASSEMBLY.replace("b083      \tsub\tsp, #12", "f84d ed08 \tstr.w\tlr, [sp, #-8]!")
    assert worst_stack(["policy_act"], CALLGRAPH, stored) == 204
    alias = CALLGRAPH.replace("__aeabi_fadd", "__addsf3")
    assert worst_stack(["policy_act"], alias, DISASSEMBLY) is None
    symbols = "00008000 T __addsf3\n00008000 T __aeabi_fadd\n00008100 t normalise\n"
    assert worst_stack(["policy_act"], alias, DISASSEMBLY, symbols) == 208
    assert worst_stack(["elsewhere"], CALLGRAPH, DISASSEMBLY) is None


@pytest.mark.mcu
def test_library_code_is_counted_where_there_is_no_fpu(tmp_path: Path) -> None:
    write_c(small_policy(hidden=64), tmp_path, "policy")
    sources = {path.name: path.read_text() for path in tmp_path.iterdir()}
    soft = static_figures(sources, "cortex-m0", "policy", ("-O3",))
    hard = static_figures(sources, "cortex-m4", "policy", ("-O3",))
    assert hard.library == 0
    assert 500 < soft.library < 4000
    assert soft.stack is not None
    assert hard.stack is not None
    # The hidden layer alone is 64 floats on the stack.
    assert 256 < hard.stack < soft.stack < 800
    assert "arm-none-eabi-gcc" in hard.compiler


@pytest.mark.mcu
def test_code_that_the_cross_compiler_refuses() -> None:
    with pytest.raises(PopsError, match=r"arm-none-eabi-gcc failed with status"):
        static_figures({"policy.c": "not C\n"}, "cortex-m4", "policy", ())


def test_missing_cross_compiler_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PopsError, match=r"apt install gcc-arm-none-eabi"):
        static_figures({}, "cortex-m4", "policy", ())


def test_every_board_reads() -> None:
    boards = {board.key: board for board in load_boards()}
    assert tuple(boards) == FILES
    assert {board.core for board in boards.values()} == {
        "cortex-m0",
        "cortex-m3",
        "cortex-m4",
        "cortex-m7",
        "cortex-m55",
    }
    for board in boards.values():
        assert 0 < board.cycles_low < board.cycles_high
        assert board.fpu == ("single" if board.core not in ("cortex-m0", "cortex-m3") else "none")


def test_board_says_by_how_much_a_policy_does_not_fit() -> None:
    (board,) = load_boards(("microbit-v1",))
    good = board.judge((1000, 2000), 1024, 160)
    assert good["fits"]
    assert good["verdict"] == "fits: 0.39% of flash, 0.98% of RAM"
    assert good["estimated_microseconds"] == [1000 * 1.2 / 16, 2000 * 2.2 / 16]
    assert good["estimate"] == "75.0 to 275 µs"
    assert "1.2 to 2.2 cycles an instruction at 16 MHz" in good["assumption"]
    bad = board.judge((1, 1), 256 * 1024 + 10, 20_000)
    assert not bad["fits"]
    assert bad["verdict"] == ("does not fit: 10 B of flash too much, 3,616 B of RAM too much")


def test_boards_of_ones_own(tmp_path: Path) -> None:
    text = (
        '# mine\nname = "Mine"\ncore = "cortex-m4"\nfpu = "single"\ncycles_why = "guess"\n'
        "clock_mhz = 64\nflash_kib = 512\nram_kib = 128\ncycles_low = 1\ncycles_high = 2\n"
    )
    path = tmp_path / "mine.toml"
    path.write_text(text)
    (board,) = load_boards((str(path),))
    assert (board.key, board.name, board.clock_mhz) == ("mine", "Mine", 64.0)
    with pytest.raises(UsageError, match=r"Board 'mine' is unknown, expected one of: microbit"):
        load_boards(("mine",))
    with pytest.raises(PopsError, match="Cannot read the board"):
        load_boards((str(tmp_path / "none.toml"),))
    for damaged, message in (
        (text + "colour = 3\n", "line 11: 'colour = 3' cannot be read"),
        (text.replace("64", '"64"'), "cannot be read"),
        (text.replace("ram_kib = 128\n", ""), "lacks ram_kib"),
        (text.replace("512", "0"), "must be positive"),
    ):
        with pytest.raises(PopsError, match=message):
            parse_board("mine", damaged)

"""A player of Pong that reads the emulator's memory: it labels states, it is no policy on pixels.

The game's rules, as measured in the emulator: the ball flies straight and is reflected at the
walls; where it meets the paddle decides how steeply it leaves; a steep ball that leaves from the
right height cannot be reached by the other side. One decision of pressing a direction moves the
paddle by about 22 lines, half of them a decision late.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
from pong_memory import BALL_X, BALL_Y, CENTRE, JUMP, OWN, PADDLE_X

NOOP, UP, DOWN = 0, 1, 2
_SIGN = np.array([0.0, -1.0, 1.0])
_TOP, _BOTTOM = 44.0, 205.0
_WAIT = 125.0
"""Where the paddle's middle waits while the ball flies away."""
_STEEP_DOWN, _STEEP_UP = (-8.5, -4.5), (7.5, 11.5)
"""Paddle's middle minus ball, where they meet, for the two steepest ways to return it."""
_DOWN_WINS, _UP_WINS = 128.0, 163.0
"""A steep ball downwards wins from above the first line, one upwards from above the second."""
_MISS, _RETURN, _WIN = -1.0, 0.1, 1.0
_BLUR = 2.0
"""Standard deviation, in lines, of where the paddle really is."""

_LATE = (0.0, 0.5)
"""Decisions after the planned one in which the ball may be met: on the move a paddle may miss."""
_AHEAD = 5
"""Decisions that are planned jointly."""
_PLANS = np.array(list(itertools.product((NOOP, UP, DOWN), repeat=_AHEAD)))
_EFFORT = 0.02 * (_PLANS != NOOP).sum(1)
_DECISIONS = (0.0, 1.0, 2.0, 3.0)
_MOVED = (0.0, 9.5, 20.0, 22.5)
"""Lines that one press has moved the paddle, so many decisions after it began."""

Array = npt.NDArray[np.float64]
_OFFSETS = np.arange(-40.0, 41.0, 0.5)


def _values(down: float, up: float) -> Array:
    """What each offset is worth, if a steep return downwards or upwards is worth this."""
    offset = _OFFSETS
    hit = (offset >= _STEEP_DOWN[0]) & (offset < _STEEP_UP[1])
    value = np.where(hit, _RETURN, _MISS)
    value[hit & (offset < _STEEP_DOWN[1])] = down
    value[hit & (offset >= _STEEP_UP[0])] = up
    around = np.arange(-12, 13)
    weights = np.exp(-0.5 * (around * 0.5 / _BLUR) ** 2)
    padded = np.pad(value, 12, mode="edge")
    return np.convolve(padded, weights / weights.sum(), mode="valid")


_REST_VALUES = np.array([0.0, -0.1, -0.1])
_HIGH, _MIDDLE, _LOW = _values(_WIN, 0.2), _values(0.0, 0.9), _values(0.0, 0.0)


def _moved(decisions: Any) -> Any:
    return np.interp(decisions, _DECISIONS, _MOVED)


class ScriptedPong:
    """Plans the paddle's way to the ball; one instance for each game under way."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._presses = (NOOP, NOOP)

    def reset(self) -> None:
        """Forget the game before."""
        self._last, self._presses = None, (NOOP, NOOP)

    def look(self, ale: Any) -> Array:
        """(3,) what doing nothing, up and down is worth, between losing and winning the point."""
        memory = ale.getRAM()
        x, y, paddle = (float(memory[place]) for place in (BALL_X, BALL_Y, OWN))
        last, self._last = self._last, (x, y)
        if last is None:
            return _REST_VALUES
        dx, dy = x - last[0], y - last[1]
        in_play = x > 0 and y > 0 and last[0] > 0 and max(abs(dx), abs(dy)) < JUMP
        if not (in_play and dx > 0 and x < PADDLE_X + 3):
            return self._approach(paddle, _WAIT)
        decisions = max((PADDLE_X - x) / dx, 0.0)
        meets = _reflected(y + dy * (PADDLE_X - x) / dx)
        if decisions > _AHEAD:
            return self._approach(paddle, meets + 1.5)
        return self._plan(paddle, decisions, meets)

    def acted(self, action: int) -> None:
        """Tell which action was taken in the end, the script's or another's."""
        self._presses = (action, self._presses[0])

    def _approach(self, paddle: float, line: float) -> Array:
        """Come near: a press moves the paddle by more than 22 lines."""
        one, two = _SIGN[list(self._presses)]
        rest = paddle + one * (_MOVED[3] - _MOVED[1]) + two * (_MOVED[3] - _MOVED[2])
        after = np.abs(rest + _SIGN * _MOVED[3] + CENTRE - line)
        value: Array = -np.minimum(after, 80.0) / 100.0 - (0.0, 0.035, 0.035)
        return value

    def _plan(self, paddle: float, decisions: float, meets: float) -> Array:
        """The best that can still come of each first action when the ball arrives."""
        one, two = _SIGN[list(self._presses)]
        table = _HIGH if meets < _DOWN_WINS else _MIDDLE if meets < _UP_WINS else _LOW
        value = -_EFFORT
        for late in _LATE:
            when = max(decisions + late, 0.0)
            under_way = one * (_moved(when + 1) - _MOVED[1])
            under_way += two * (_moved(when + 2) - _MOVED[2])
            pressed = _SIGN[_PLANS] @ _moved(np.maximum(when - np.arange(_AHEAD), 0.0))
            offset = paddle + under_way + pressed + CENTRE - meets
            worth = np.interp(offset, _OFFSETS, table) - 1e-3 * np.abs(offset - 1.5)
            value = value + worth / len(_LATE)
        best: Array = value.reshape(3, -1).max(axis=1)
        return best


def _reflected(y: float) -> float:
    """Where a ball that flies straight on to `y` is after bouncing off the walls."""
    period = 2 * (_BOTTOM - _TOP)
    folded = (y - _TOP) % period
    return _TOP + min(folded, period - folded)

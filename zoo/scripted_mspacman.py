"""A player of Ms. Pac-Man that reads the emulator: it labels states, it is no policy on pixels.

The maze is a grid of 14 rows and 18 columns. Walls and pellets are read off the screen, places and
states of the ghosts out of the emulator's memory. A cell is safe if the player gets there before
every ghost that hunts; what can be eaten in safe cells draws the player, the nearer the more.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import lil_matrix
from scipy.sparse.csgraph import shortest_path

UP, RIGHT, LEFT, DOWN = 0, 1, 2, 3
_ROWS, _COLUMNS = 14, 18
_X = np.r_[10 + 8 * np.arange(9), 86 + 8 * np.arange(9)].astype(float)
_Y = 7.0 + 12 * np.arange(_ROWS)
_MOVES = ((-1, 0), (0, 1), (0, -1), (1, 0))
"""Rows and columns of up, right, left, down."""

_PLAYER, _FRUIT = (10, 16), (11, 17)
_GHOSTS = ((6, 12), (7, 13), (8, 14), (9, 15))
"""Where the emulator keeps x and y of each."""
_STATES = (1, 2, 3, 4)
"""Of the ghosts: the highest bit is set while one can be eaten."""
_EDIBLE = 0x80
_OFFSET_X, _OFFSET_Y = -8.0, 5.0
"""From the emulator's place to the middle on the screen."""
_TIMER = 116
_JUMP = 10.0
"""What moves further in one decision has been put elsewhere."""
_TUNNEL = 24.0
"""Pixels through a tunnel, from one side's last cell to the other's."""
_POWER_ROWS = (1, 12)
"""Where the power pellets lie, on both sides."""
_BLINK = 6
"""Decisions within which a power pellet is drawn at least once."""

_NEAR, _FAR = 0.93, 0.985
"""What a cell's distance takes off, a step of eight pixels."""
_MANY, _NEXT = 0.25, 3.0
"""How much all that there is to eat counts, and the best of it."""
_POWER, _GHOST, _FRUIT_WORTH = 4.0, 12.0, 8.0
"""In pellets."""
_KEEP = 4.0
"""What it is worth not to turn back, in pellets: a pupil cannot follow one that dithers."""
_SLACK = 8.0
"""Pixels that the player has to be ahead of a ghost."""
_TRAPPED, _JUNCTIONS = 8.0, 2.0
"""What having no safe junction costs, and how many junctions are safety."""

Array = npt.NDArray[np.float64]


class Maze:
    """Open cells and the distances between them, in pixels; tunnels join the sides."""

    def __init__(self, closed: npt.NDArray[np.bool_], tunnels: npt.NDArray[np.bool_]) -> None:
        self.open = np.flatnonzero(~closed.ravel())
        self.neighbours = np.full((_ROWS * _COLUMNS, 4), -1)
        for here in self.open:
            row, column = divmod(int(here), _COLUMNS)
            for move, (down, right) in enumerate(_MOVES):
                to_row, to_column = row + down, column + right
                if tunnels[row]:
                    to_column %= _COLUMNS
                inside = to_row in range(_ROWS) and to_column in range(_COLUMNS)
                if inside and not closed[to_row, to_column]:
                    self.neighbours[here, move] = to_row * _COLUMNS + to_column
        self.junction = (self.neighbours >= 0).sum(axis=1) > 2
        graph = lil_matrix((_ROWS * _COLUMNS, _ROWS * _COLUMNS))
        for here, there in self._steps():
            graph[here, there] = _length(here, there)
        self.distance: Array = shortest_path(graph.tocsr(), method="D")
        self.onward = self._onward()

    def _steps(self) -> list[tuple[int, int]]:
        return [(int(h), int(t)) for h in self.open for t in self.neighbours[h] if t >= 0]

    def _onward(self) -> Array:
        """(cells, 4, cells) distances when leaving a cell in a direction and never turning back."""
        count = len(self.neighbours)
        directed = lil_matrix((4 * count, 4 * count))
        for here in self.open:
            for move in range(4):
                there = int(self.neighbours[here, move])
                if there < 0:
                    continue
                exits = [m for m in range(4) if self.neighbours[there, m] >= 0 and m != 3 - move]
                for following in exits or [3 - move]:
                    length = _length(int(here), there)
                    directed[4 * here + move, 4 * there + following] = length
        table = shortest_path(directed.tocsr(), method="D").reshape(count, 4, count, 4)
        onward: Array = table.min(axis=3)
        return onward


def _length(here: int, there: int) -> float:
    """Pixels from one cell's middle to the next one's."""
    if here % _COLUMNS == there % _COLUMNS:
        return 12.0
    across = abs(float(_X[here % _COLUMNS] - _X[there % _COLUMNS]))
    return across if across < 20 else _TUNNEL


class ScriptedMsPacman:
    """Goes where there is most to eat and no ghost arrives before it."""

    def __init__(self) -> None:
        self._mazes: dict[bytes, Maze] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the game before."""
        self._seen: deque[npt.NDArray[np.bool_]] = deque(maxlen=_BLINK)
        self._places: dict[int, tuple[float, float]] = {}
        self._last = UP

    def look(self, ale: Any) -> Array:
        """(4,) what going up, right, left or down is worth, in pellets."""
        memory = ale.getRAM()
        maze, worth = self._read(ale.getScreenRGB())
        x, y = _place(memory, _PLAYER)
        here, motion = _cell(maze, x, y), self._motion(_PLAYER[0], x, y)
        arrival, prey = self._ghosts(maze, memory)
        if memory[_FRUIT[0]] or memory[_FRUIT[1]]:
            worth[_cell(maze, *_place(memory, _FRUIT))] += _FRUIT_WORTH
        values = np.full(4, np.nan)
        for move in range(4):
            first, lead = _first(maze, here, (y, x), move, motion)
            if first >= 0:
                values[move] = _worth(maze, first, lead, worth, arrival, prey)
        if motion in _MOVES:
            values[_MOVES.index(motion)] += _KEEP
        return self._filled(values)

    def acted(self, action: int) -> None:
        """Tell which action was taken in the end, the script's or another's."""
        self._last = action

    def _filled(self, values: Array) -> Array:
        """What is walled off is worth a little less than going on, which is what it comes to."""
        if np.isnan(values).all():
            return np.zeros(4)
        onward = values[self._last]
        return np.where(
            np.isnan(values), (np.nanmin(values) if np.isnan(onward) else onward) - 0.3, values
        )

    def _motion(self, which: int, x: float, y: float) -> tuple[int, int]:
        """Signs of the last movement down and to the right; (0, 0) after a jump."""
        last_x, last_y = self._places.get(which, (x, y))
        self._places[which] = (x, y)
        if max(abs(x - last_x), abs(y - last_y)) >= _JUMP:
            return 0, 0
        return int(np.sign(y - last_y)), int(np.sign(x - last_x))

    def _read(self, screen: npt.NDArray[np.uint8]) -> tuple[Maze, Array]:
        """The maze, and what there is to eat in each cell."""
        rows, columns = _Y.astype(int), _X.astype(int)
        like = (screen == screen[1, 80]).all(axis=2)
        closed = like[rows - 5][:, columns] & like[rows + 5][:, columns]
        tunnels = ~like[rows, 0] & ~like[rows, 159]
        key = closed.tobytes() + tunnels.tobytes()
        if key not in self._mazes:
            self._mazes[key] = Maze(closed, tunnels)
        self._seen.append(like[rows][:, columns] & ~closed)
        worth = np.logical_or.reduce(list(self._seen)).astype(np.float64)
        for row in _POWER_ROWS:
            worth[row, [0, -1]] *= _POWER
        return self._mazes[key], worth.ravel()

    def _ghosts(self, maze: Maze, memory: Any) -> tuple[Array, list[tuple[int, float]]]:
        """When the first hunter reaches each cell; the cells of edible ghosts, for how long."""
        arrival, prey = np.full(_ROWS * _COLUMNS, np.inf), []
        for which, state in zip(_GHOSTS, _STATES):
            x, y = _place(memory, which)
            cell, motion = _cell(maze, x, y), self._motion(which[0], x, y)
            if memory[state] & _EDIBLE:
                prey.append((cell, float(memory[_TIMER])))
                continue
            reach = maze.distance[cell]
            if motion in _MOVES and maze.neighbours[cell, _MOVES.index(motion)] >= 0:
                row, column = divmod(cell, _COLUMNS)
                ahead = motion[0] * (y - _Y[row]) + motion[1] * (x - _X[column])
                reach = np.maximum(maze.onward[cell, _MOVES.index(motion)] - ahead, 0.0)
            arrival = np.minimum(arrival, reach)
        return arrival, prey


def _place(memory: Any, which: tuple[int, int]) -> tuple[float, float]:
    """x and y of something's middle on the screen."""
    return float(memory[which[0]]) + _OFFSET_X, float(memory[which[1]]) + _OFFSET_Y


def _cell(maze: Maze, x: float, y: float) -> int:
    """The open cell nearest to a place on the screen."""
    rows, columns = np.divmod(maze.open, _COLUMNS)
    return int(maze.open[np.argmin((_X[columns] - x) ** 2 + (_Y[rows] - y) ** 2)])


def _first(
    maze: Maze, here: int, place: tuple[float, float], move: int, motion: tuple[int, int]
) -> tuple[int, float]:
    """The first cell's middle that a move leads to, and how far away it is; -1 for none."""
    row, column = divmod(here, _COLUMNS)
    down, right = _MOVES[move]
    off_y, off_x = place[0] - _Y[row], place[1] - _X[column]
    along = down * off_y + right * off_x
    if along < -1:
        return here, -along
    cell, aside = here, abs(off_x if down else off_y)
    leaving = motion[1] * off_x if down else motion[0] * off_y
    if aside > 3 and leaving > 0:
        # Past the middle: the turn comes at the next cell.
        ahead = _MOVES.index((0, motion[1]) if down else (motion[0], 0))
        cell = int(maze.neighbours[here, ahead])
        if cell < 0:
            return -1, 0.0
        aside = max(_length(here, cell) - aside, 0.0)
    there = int(maze.neighbours[cell, move])
    if there < 0:
        return -1, 0.0
    return there, max(_length(cell, there) - max(along, 0.0) + aside, 1.0)


def _worth(
    maze: Maze,
    first: int,
    lead: float,
    worth: Array,
    arrival: Array,
    prey: list[tuple[int, float]],
) -> float:
    """What there is to eat where no hunter comes first, and whether there is a way out."""
    travel = lead + maze.distance[first]
    safe = travel + _SLACK < arrival
    if not safe[first]:
        return -6.0 + 0.05 * min(float(arrival[first]), 60.0)
    steps = np.where(np.isfinite(travel), travel, 1e4) / 8.0
    value = _MANY * float((worth * _NEAR**steps)[safe].sum())
    value += _NEXT * float((worth * _FAR**steps)[safe].max(initial=0.0))
    for cell, timer in prey:
        if safe[cell] and travel[cell] < 1.5 * timer:
            value += _GHOST * _NEAR ** steps[cell]
    ways = int((safe & maze.junction).sum())
    value -= _TRAPPED * math.exp(-ways / _JUNCTIONS)
    return value - 2.0 * math.exp(-(float(arrival[first]) - lead) / 16.0)

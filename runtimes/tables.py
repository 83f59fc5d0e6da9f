"""Tables for a terminal of any width: numbers, names and words stay whole, and nothing is cut off."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from seqexport.runtimes.encoding import plain

WIDEST = 10_000
PIPE_WIDTH = 1000
"""Characters in a line of what is no terminal: a table there is as wide as it wants to be."""


class PlainConsole(Console):
    """Rich's console; what a terminal obeys never reaches it: names and texts come from bundles."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)


def open_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Standard output or error; lines are laid out to the terminal's width, or to that of ``$COLUMNS``."""
    made = PlainConsole(stderr=stderr, soft_wrap=soft_wrap)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


class FittedTable(Table):
    """Rich's table; where it is too wide, (1) words wrap, (2) the box goes, (3) each row becomes lines of its own.

    A cell that is aligned to the right is a number, which is never wrapped.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = [_width(console, column, wrapped=False) for column in self.columns]
        least = [_width(console, column, wrapped=True) for column in self.columns]
        natural = Measurement.get(console, options.update(width=WIDEST), self).maximum
        if natural <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        for table in (self, _without_box(self)):
            natural = Measurement.get(console, options.update(width=WIDEST), table).maximum
            room = options.max_width - (natural - sum(whole)) - sum(least)
            if room >= 0 or not self.show_header:
                fitted = _with_widths(table, _shared(room, least, whole))
                yield from Table.__rich_console__(fitted, console, options)
                return
        yield from self._rows_as_lines(console)

    def _rows_as_lines(self, console: Console) -> RenderResult:
        """A heading and a value on each line, and an empty line after each row of the table."""
        if self.title:
            yield Text.styled(_plain(console, self.title), "table.title")
        headings = [" ".join(_plain(console, column.header).split()) for column in self.columns]
        for row in zip(*(column.cells for column in self.columns), strict=True):
            cells = [console.render_str(str(cell)) for cell in row]
            lines = Table.grid(padding=(0, 2))
            lines.add_column(style="dim", width=max(map(cell_len, headings)))
            lines.add_column(overflow="fold")
            if not headings[0]:  # a mark
                cells[:2] = [Text(" ").join(cells[:2])]
            for heading, cell in zip(headings[-len(cells) :], cells, strict=True):
                if str(cell):
                    lines.add_row(heading, cell)
            yield lines
            yield ""
        if self.caption:
            yield Text.styled(_plain(console, self.caption), "table.caption")


def _width(console: Console, column: Column, *, wrapped: bool) -> int:
    """Characters that a column needs: of its longest line, or where it may be wrapped, of its longest word."""
    numbers = column.justify == "right"
    cells = [_plain(console, cell) for cell in column.cells]
    texts = [part for cell in cells for part in (cell.split() if wrapped and not numbers else cell.splitlines())]
    heading = _plain(console, column.header)
    texts += heading.split() if wrapped else heading.splitlines()
    return max(map(cell_len, texts), default=0)


def _without_box(table: Table) -> Table:
    """Two spaces between columns, and a line below the headings."""
    made = copy.copy(table)
    if table.box is not None:
        made.box, made.show_edge, made.pad_edge, made.padding = box.SIMPLE_HEAD, False, False, (0, 1, 0, 0)
    return made


def _with_widths(table: Table, widths: list[int]) -> Table:
    made = copy.copy(table)
    made.columns = [
        replace(column, width=width, no_wrap=False, overflow="fold")
        for column, width in zip(table.columns, widths, strict=True)
    ]
    return made


def _shared(room: int, least: list[int], whole: list[int]) -> list[int]:
    """The least width of each column, and what is left for those that want more; what lacks is the widest one's."""
    widths = list(least)
    if room < 0:
        widths[widths.index(max(widths))] += room
    order = sorted(range(len(widths)), key=lambda index: whole[index] - least[index])
    for place, index in enumerate(order):
        more = min(whole[index] - least[index], max(room, 0) // (len(order) - place))
        widths[index] += more
        room -= more
    return widths


def _plain(console: Console, cell: object) -> str:
    return console.render_str(str(cell)).plain

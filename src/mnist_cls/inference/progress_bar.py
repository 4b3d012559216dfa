"""A progress bar for long runs in a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def progress_bar(total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for long runs in a terminal; yield a function that adds a number of inputs to it."""
    if (total is not None and total - done <= 1000) or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn

    class Speed(TextColumn):
        def render(self, task: Task) -> Any:
            return f"{task.speed or 0:,.0f} images/s"

    columns = BarColumn(), MofNCompleteColumn(), Speed(""), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("predict", total=total, completed=done)
        yield lambda count: bar.advance(task, count)

"""Stacks for the tests, and one that many of them share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slipway_testkit.stack import Stack


@pytest.fixture(scope="session")
def start_stack() -> Iterator[Callable[..., Stack]]:
    """Starts stacks that the tests end, and ends those that they do not."""
    started: list[Stack] = []

    def start(data_dir: Path, *arguments: str, user: int | None = None) -> Stack:
        stack = Stack(data_dir, arguments, user)
        started.append(stack)
        return stack

    yield start
    for stack in started:
        stack.stop()


@pytest.fixture(scope="session")
def stack(start_stack: Callable[..., Stack], tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """One stack that many tests share; they use names of their own."""
    return start_stack(tmp_path_factory.mktemp("stack") / "data").ready()

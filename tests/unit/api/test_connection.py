"""Readers of answers: how little they may take while more is waiting."""

import asyncio

import pytest
import uvicorn
from starlette.applications import Starlette
from uvicorn.server import ServerState

from evoserve.api.connection import MIN_READ_BYTES, BoundedHttp

NUM_BEFORE = 100_000


class Pipe(asyncio.Transport):
    """Holds what nobody has read."""

    def __init__(self) -> None:
        super().__init__()
        self.num_unread = NUM_BEFORE
        self.is_cut = False

    def get_write_buffer_size(self) -> int:
        return self.num_unread

    def close(self) -> None:
        """Nothing is left to do."""

    def abort(self) -> None:
        self.is_cut = True


@pytest.mark.parametrize(
    ("num_read", "is_cut"),
    [(0, True), (MIN_READ_BYTES - 1, True), (MIN_READ_BYTES, False), (NUM_BEFORE, False)],
)
async def test_a_reader_that_takes_next_to_nothing_is_cut(num_read: int, is_cut: bool) -> None:
    config = uvicorn.Config(Starlette(), log_config=None)
    config.load()
    pipe = Pipe()
    connection = BoundedHttp(config, ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(pipe)
    connection.pause_writing()
    pipe.num_unread -= num_read
    connection._check_reader(NUM_BEFORE)  # as the timer does when the time is over
    assert pipe.is_cut is is_cut
    connection.connection_lost(None)

"""Several processes that train together, forked from the test, so that nothing has to be imported again."""

import multiprocessing
import os
import signal
import socket
import traceback
from contextlib import closing

from htc.training.distributed import joined


def together(work, processes=2, timeout=120):
    """What `work(rank)` gives in each of so many processes that meet on this machine; raises what one of them
    raises.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    started = [
        context.Process(target=_run, args=(work, rank, processes, port, pipes[rank][1])) for rank in range(processes)
    ]
    for process in started:
        process.start()
    try:
        results = []
        for receive, _ in pipes:
            assert receive.poll(timeout), "the processes wait for each other"
            results.append(receive.recv())
        for error, _ in results:
            assert error is None, error
        return [value for _, value in results]
    finally:
        for process in started:
            process.join(5)
            if process.is_alive():
                process.kill()


def _run(work, rank, processes, port, pipe):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_PORT": port,
    }
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in words.items()}}
    try:
        with joined("cpu"):
            pipe.send((None, work(rank)))
    except BaseException:
        pipe.send((traceback.format_exc(), None))

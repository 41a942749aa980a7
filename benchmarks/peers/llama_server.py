"""llama.cpp's own HTTP server, started through xllamacpp; run by the Python of its environment.

    PYTHON benchmarks/peers/llama_server.py GGUF PORT NUM_SLOTS THREADS

`benchmarks.serve` starts it. Each slot gets `SLOT_TOKENS` of context; everything else is the
server's default (continuous batching, prompt cache, fp16 KV cache). Ends on SIGTERM.
"""

import signal
import sys
from typing import Any

SLOT_TOKENS = 512


def main() -> None:
    """Load the model, listen, wait for a signal."""
    import xllamacpp  # type: ignore[import-not-found, unused-ignore]

    file, port, num_slots, threads = sys.argv[1:]
    params: Any = xllamacpp.CommonParams()
    params.model.path = file
    params.port = int(port)
    params.n_parallel = int(num_slots)
    params.n_ctx = int(num_slots) * SLOT_TOKENS
    params.cpuparams.n_threads = int(threads)
    params.cpuparams_batch.n_threads = int(threads)
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", file=sys.stderr, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()

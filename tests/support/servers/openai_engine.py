"""An external server of OpenAI's API: llama.cpp's own, as a program.

`python tests/support/servers/openai_engine.py MODEL PORT`, with its key in ENGINE_KEY.
"""

from __future__ import annotations

import os
import signal
import sys

import xllamacpp


def main() -> None:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.model_alias = {"served"}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(sys.argv[2])
    parameters.api_keys = [os.environ["ENGINE_KEY"]]
    parameters.n_ctx = 4096
    parameters.n_parallel = 5
    parameters.kv_unified = True
    parameters.kv_unified_per_slot = 512
    parameters.ctx_shift = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2
    parameters.cpuparams.poll = parameters.cpuparams_batch.poll = 0
    parameters.n_batch = parameters.n_ubatch = 128
    parameters.use_jinja = True
    server = xllamacpp.Server(parameters)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    del server


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    main()

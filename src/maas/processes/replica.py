"""The replica process: load one variant, prove that it answers, then serve it.

    python -m maas.processes.replica SPEC.json [--lifeline FD] [--engines FILE]
        [--log FILE BYTES FILES]

It exits 0 when told to (SIGTERM, or the end of the lifeline) after answering all it accepted, and
1 if it cannot load; then SPEC.error beside the spec holds the problem document.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import logging
import os
import sys
from array import array
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import uvloop

from maas.domain.deployments import ReplicaSpec
from maas.domain.errors import ArtifactCorrupt, InferenceFailed, MaasError
from maas.domain.generation import Ending
from maas.processes.lifeline import stop_event
from maas.processes.output import add_log_argument, start_logging
from maas.runtimes.base import EngineEvent, Generator, LoadRequest
from maas.runtimes.catalog import create
from maas.serving.replica.batching import Batcher, Timing
from maas.serving.replica.generator import GeneratorServer
from maas.serving.replica.pending_sequences import PlainPrompts
from maas.serving.replica.predictor import ReplicaServer
from maas.serving.replica.queue import RequestGroup
from maas.serving.replica.replica_socket import ReplicaSocket
from maas.serving.wire.json_tensors import json_to_tensors
from maas.serving.wire.messages import Priority

log = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    parser.add_argument("--lifeline", type=int, default=None)
    parser.add_argument("--engines", type=Path, default=None)
    add_log_argument(parser)
    arguments = parser.parse_args()
    start_logging("replica", arguments.log)
    spec = ReplicaSpec.from_dict(json.loads(arguments.spec.read_text()))
    try:
        create_server = loaded(spec, arguments.engines)
    except MaasError as error:
        arguments.spec.with_suffix(".error").write_text(json.dumps(error.to_problem()))
        log.error("cannot serve: %s: %s", error.code, error.message)
        return 1
    uvloop.run(serve(spec, create_server, arguments.lifeline))
    return 0


def loaded(spec: ReplicaSpec, engines: Path | None = None) -> Callable[[], ReplicaSocket]:
    """Makes the server of a model that is loaded and has answered once. Raises MaasError."""
    runtime = create(spec.runtime)
    request = load_request(spec, with_contents=not runtime.opens_files)
    if isinstance(runtime, Generator):
        runtime.load(replace(request, engines_file=engines))
        prove(runtime, spec)
        return partial(GeneratorServer, spec, runtime)
    _yield_on_waking()
    runtime.load(request)
    batcher = Batcher(runtime, spec.signature, spec.scaling.max_batch)
    warm_up(spec, batcher)
    return partial(ReplicaServer, spec, batcher)


def _yield_on_waking() -> None:
    """Where gateway and replica share a core, a frame would wake the replica in the gateway's
    middle of its tick. Rather let it finish: the batch is larger, and both are switched to less
    often. On a free core a batch process starts at once as any other."""
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it; it is only a hint
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def load_request(spec: ReplicaSpec, *, with_contents: bool) -> LoadRequest:
    """The checked files. Raises ArtifactCorrupt for a byte out of place.

    A runtime whose library opens the files itself gets their paths, so that a model of many
    gigabytes is never in Python's memory. What was checked is what it opens: the cache directory
    is this user's alone (0700), and nobody writes to a file there once it has its name.
    """
    scaling, files, paths = spec.scaling, {}, {}
    for file in spec.files:
        path = Path(file.path)
        try:
            with path.open("rb") as stream:
                if with_contents:
                    files[file.name] = stream.read()
                    digest = hashlib.sha256(files[file.name])
                else:
                    digest = hashlib.file_digest(stream, "sha256")
        except OSError as wrong:
            raise ArtifactCorrupt(f"{file.name}: {wrong.strerror}", file=file.name) from None
        if digest.hexdigest() != file.sha256:
            raise ArtifactCorrupt(
                f"{file.name} is not the file that was published: its SHA-256 differs",
                file=file.name,
            )
        paths[file.name] = path
    return LoadRequest(
        files, spec.signature, scaling.threads, spec.options, paths, scaling.max_batch
    )


def prove(generator: Generator, spec: ReplicaSpec) -> None:
    """One real token before anybody may ask. Raises MaasError if none comes."""
    text = str(spec.signature.example.get(spec.signature.inputs[0].name, "Hello"))
    said: SimpleQueue[EngineEvent] = SimpleQueue()
    proof = PlainPrompts(generator.has_chat_template, 1).generation(text)
    generator.start(0, proof, lambda _, what: said.put(what))
    while not isinstance(what := said.get(), Ending):
        if isinstance(what, MaasError):
            raise what
    if what.completion_tokens < 1:
        raise InferenceFailed("the model wrote nothing for the signature's example")


def warm_up(spec: ReplicaSpec, batcher: Batcher) -> None:
    """One real answer before anybody may ask: ready means that it works."""
    tensors, rows, _ = json_to_tensors(spec.signature, spec.signature.example)
    inputs = [tensors[s.name] for s in spec.signature.inputs]
    example = RequestGroup(
        ids=array("Q", [0]),
        rows=array("I", [rows]),
        deadlines=array("d", [0.0]),
        tenant=0,
        priority=Priority.LOW,
        shapes=tuple(t.shape[1:] for t in inputs),
        columns=[t.data for t in inputs],
        owner=None,
        arrived=0.0,
        total_rows=rows,
    )
    batcher.answers([example], batcher.run([example]), 0, Timing(0.0, 0.0, rows))


async def serve(
    spec: ReplicaSpec, create_server: Callable[[], ReplicaSocket], lifeline: int | None
) -> None:
    server = create_server()
    stop = stop_event(lifeline)
    Path(spec.socket).unlink(missing_ok=True)
    await server.listen()
    # What is alive now stays alive; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await stop.wait()
    await server.drain()
    Path(spec.socket).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

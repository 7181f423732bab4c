"""The replica process: loads one variant, checks that it answers, then serves it.

    python -m maas.processes.replica SPEC.json [--lifeline FD] [--engines FILE]
        [--log FILE BYTES FILES]

After SIGTERM or the end of the lifeline it answers all accepted requests and exits with status 0.
If it cannot load the variant, it exits with status 1, and SPEC.error has the problem document.
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
from maas.serving.replica.generation_server import GeneratorServer
from maas.serving.replica.pending_sequences import PlainPrompts
from maas.serving.replica.prediction_server import ReplicaServer
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
        create_server = prepare(spec, arguments.engines)
    except MaasError as error:
        arguments.spec.with_suffix(".error").write_text(json.dumps(error.to_problem()))
        log.error("cannot serve: %s: %s", error.code, error.message)
        return 1
    uvloop.run(serve(spec, create_server, arguments.lifeline))
    return 0


def prepare(spec: ReplicaSpec, engines: Path | None = None) -> Callable[[], ReplicaSocket]:
    """Loads the variant and gets one answer from it; returns a factory of its server.

    Raises MaasError.
    """
    runtime = create(spec.runtime)
    request = load_request(spec, with_contents=not runtime.opens_files)
    if isinstance(runtime, Generator):
        runtime.load(replace(request, engines_file=engines))
        warm_up_generator(spec, runtime)
        return partial(GeneratorServer, spec, runtime)
    _use_batch_scheduling()
    runtime.load(request)
    batcher = Batcher(runtime, spec.signature, spec.scaling.max_batch)
    warm_up(spec, batcher)
    return partial(ReplicaServer, spec, batcher)


def _use_batch_scheduling() -> None:
    """Selects SCHED_BATCH on Linux.

    If gateway and replica share a core, a frame would otherwise preempt the gateway in the middle
    of its tick. Letting the gateway finish makes batches larger and context switches rarer. On a
    free core it makes no difference.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a sandbox may forbid this optimization
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def load_request(spec: ReplicaSpec, *, with_contents: bool) -> LoadRequest:
    """The verified files. Raises ArtifactCorrupt if a digest differs.

    A runtime whose library opens the files itself gets only their paths, so that a model of many
    gigabytes is never in Python's memory. It opens the verified files: the cache directory belongs
    to this user only (0700), and files there are never modified.
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
        except OSError as error:
            raise ArtifactCorrupt(f"{file.name}: {error.strerror}", file=file.name) from None
        if digest.hexdigest() != file.sha256:
            raise ArtifactCorrupt(
                f"{file.name} is not the file that was published: its SHA-256 differs",
                file=file.name,
            )
        paths[file.name] = path
    return LoadRequest(
        files, spec.signature, scaling.threads, spec.options, paths, scaling.max_batch
    )


def warm_up_generator(spec: ReplicaSpec, generator: Generator) -> None:
    """Generates one token from the signature's example. Raises MaasError if there is none."""
    text = str(spec.signature.example.get(spec.signature.inputs[0].name, "Hello"))
    events: SimpleQueue[EngineEvent] = SimpleQueue()
    generation = PlainPrompts(generator.has_chat_template, 1).generation(text)
    generator.start(0, generation, lambda _, event: events.put(event))
    while not isinstance(event := events.get(), Ending):
        if isinstance(event, MaasError):
            raise event
    if event.completion_tokens < 1:
        raise InferenceFailed("the model generated no token for the signature's example")


def warm_up(spec: ReplicaSpec, batcher: Batcher) -> None:
    """Predicts the signature's example, so that a ready replica is known to work."""
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
    # The objects of the loaded model live as long as the process: exclude them from collection.
    gc.collect()
    gc.freeze()
    await stop.wait()
    await server.drain()
    Path(spec.socket).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

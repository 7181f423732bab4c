"""The replica process: load one variant, prove that it answers, then serve it.

    python -m maas.processes.replica SPEC.json [--lifeline FD]

It exits 0 when told to (SIGTERM, or the end of the lifeline) after answering all it accepted, and
1 if it cannot load; then SPEC.error beside the spec holds the problem document.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import sys
from array import array
from pathlib import Path

import uvloop

from maas.domain.deployments import ReplicaSpec
from maas.domain.errors import ArtifactCorrupt, MaasError
from maas.processes.lifeline import stop_event
from maas.runtimes.base import LoadRequest, Runtime
from maas.runtimes.catalog import create_runtime
from maas.serving.batching import Batcher, Timing
from maas.serving.codec import json_to_tensors
from maas.serving.messages import Priority
from maas.serving.queue import Parcel
from maas.serving.replica import ReplicaServer
from maas.telemetry import log_as_json

log = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    parser.add_argument("--lifeline", type=int, default=None)
    arguments = parser.parse_args()
    log_as_json("replica")
    spec = ReplicaSpec.from_dict(json.loads(arguments.spec.read_text()))
    try:
        batcher = Batcher(load(spec), spec.signature, spec.scaling.max_batch)
        warm_up(spec, batcher)
    except MaasError as error:
        arguments.spec.with_suffix(".error").write_text(json.dumps(error.to_problem()))
        log.error("cannot serve: %s: %s", error.code, error.message)
        return 1
    uvloop.run(serve(spec, batcher, arguments.lifeline))
    return 0


def load(spec: ReplicaSpec) -> Runtime:
    """The runtime with the variant loaded; raises ArtifactCorrupt for a byte out of place."""
    files = {}
    for file in spec.files:
        try:
            data = Path(file.path).read_bytes()
        except OSError as wrong:
            raise ArtifactCorrupt(f"{file.name}: {wrong.strerror}", file=file.name) from None
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ArtifactCorrupt(
                f"{file.name} is not the file that was published: its SHA-256 differs",
                file=file.name,
            )
        files[file.name] = data
    runtime = create_runtime(spec.runtime)
    runtime.load(LoadRequest(files, spec.signature, spec.scaling.threads, spec.options))
    return runtime


def warm_up(spec: ReplicaSpec, batcher: Batcher) -> None:
    """One real answer before anybody may ask: ready means that it works."""
    tensors, rows, _ = json_to_tensors(spec.signature, spec.signature.example)
    inputs = [tensors[s.name] for s in spec.signature.inputs]
    example = Parcel(
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


async def serve(spec: ReplicaSpec, batcher: Batcher, lifeline: int | None) -> None:
    server = ReplicaServer(spec, batcher)
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

"""Parses complete multipart/form-data bodies (RFC 7578) within limits.

File names are ignored; only their presence matters.
"""

from __future__ import annotations

from typing import NamedTuple

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from maas.domain.errors import MalformedBody
from maas.gateway.http.request import Request

FORM = b"multipart/form-data"
MAX_PARTS = 64
MAX_HEADER_BYTES = 4096
MAX_HEADERS = 8
MAX_BOUNDARY_BYTES = 70


class FormPart(NamedTuple):
    """One field of a form."""

    name: str
    is_file: bool
    """Whether the part has a file name."""
    data: bytes


def form_of(request: Request) -> list[FormPart]:
    """The parts of the form in `request`, in order. Raises MalformedBody."""
    header = request.headers.get(b"content-type", b"").decode("latin-1")
    boundary = parse_options_header(header)[1].get("boundary", "")
    if not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES or not boundary.isascii():
        raise MalformedBody(
            f"multipart/form-data needs a boundary of 1 to {MAX_BOUNDARY_BYTES} characters"
        )
    parts: list[FormPart] = []
    segment: MultipartSegment | None = None
    pieces: list[bytes] = []
    try:
        with PushMultipartParser(
            boundary,
            max_header_size=MAX_HEADER_BYTES,
            max_header_count=MAX_HEADERS,
            max_segment_count=MAX_PARTS,
        ) as parser:
            for event in parser.parse(bytes(request.body)):
                if isinstance(event, MultipartSegment):
                    segment, pieces = event, []
                elif event:
                    pieces.append(bytes(event))
                elif segment is not None:
                    is_file = segment.filename is not None
                    parts.append(FormPart(segment.name, is_file, b"".join(pieces)))
                    segment = None
    except (MultipartError, UnicodeError) as error:
        raise MalformedBody(f"the body is not multipart/form-data: {error}") from None
    return parts

"""Messages of the HTTP protocols as types with bounds.

The gateway decodes requests into these types and encodes answers from them; the OpenAPI document
is derived from them. Descriptions and bounds that only the document needs are in `msgspec.Meta`.
"""

"""JSON Schema keywords that several parts of the system treat alike.

Source: https://json-schema.org/draft/2020-12/json-schema-validation
"""

ANNOTATIONS = frozenset({
    "title", "description", "default", "examples", "example", "$comment", "deprecated", "readOnly",
    "writeOnly", "nullable", "$defs", "definitions", "$schema", "$id",
})  # fmt: skip
"""Keywords that do not restrict which values are valid."""

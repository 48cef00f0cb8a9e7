"""What schemathesis does not know by itself."""

import schemathesis


@schemathesis.serializer("application/wasm")
def wasm(_context, value):
    """A body of bytes as it is."""
    return value if isinstance(value, bytes) else str(value).encode()

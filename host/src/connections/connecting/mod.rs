//! A person's way to a connection: begun, answered, completed.

//! Authorization servers of upstreams: found, registered with, asked.

//! What the gateway tells of itself to those who run it: what it counts, and where requests of many programs belong together.
//!
//! [`Grid`], [`Timings`] and [`Histogram`] count with nothing but atomic additions, over labels whose values are known
//! beforehand: no caller can make another time series. Each part of the gateway has its own and is read when somebody asks
//! ([`Exposition`]). [`Trace`] is a request's place among the spans of others (W3C Trace Context), and [`Tracer`] sends what was
//! sampled to a collector, without anybody waiting for it.

mod context;
mod count;
mod otlp;
mod process;
#[cfg(test)]
mod tests;
mod text;
mod trace;
mod tracer;

pub use context::{MAX_STATE_BYTES, TRACEPARENT, TRACESTATE, TraceContext};
pub use count::{Grid, Histogram, OTHER, Reading, Timings};
pub use process::{Process, cpu_seconds};
pub use text::{Exposition, Kind, Metric};
pub use trace::{SpanKind, Tag, Trace};
pub use tracer::{Exporter, Settings, Tracer, Traffic};

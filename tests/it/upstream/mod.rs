//! The far side: upstreams that are down, slow, wrong or gone, and what of that a caller notices.

mod catalog;
mod extra;
mod faults;
mod listening;
mod lists;
mod sessions;
mod stdio;

//! The gateway, or the floor, with an allocator that counts: for the allocations per call in `docs/benchmarks.md`.
//!
//! `counted gateway COUNTER CONFIG` or `counted floor COUNTER LISTEN UPSTREAM`, where all but `CONFIG` are addresses with
//! ports. Whoever connects to `COUNTER` is told how many allocations there were so far and of how many bytes.

#![expect(unsafe_code, reason = "a global allocator cannot be had without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use portcullis::Listeners;
use portcullis::env::Env;
use portcullis_tests::proxies::floor::FloorProxy;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

fn count(size: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(size as u64, Ordering::Relaxed);
}

// SAFETY: every method hands its arguments to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(block, layout) }
    }
}

#[derive(Parser)]
enum Arguments {
    /// The gateway with this configuration.
    Gateway { counter: SocketAddr, config: PathBuf },
    /// The floor.
    Floor { counter: SocketAddr, listen: SocketAddr, upstream: SocketAddr },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse() {
        Arguments::Gateway { counter, config } => {
            tell(TcpListener::bind(counter)?);
            let env = Env::system();
            let config = portcullis::config::load(&config, &|_| None, env.now())
                .map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?;
            let public = tokio::net::TcpListener::bind(config.listen.public).await?;
            let stop = async { _ = tokio::signal::ctrl_c().await };
            portcullis::serve(Listeners { public, admin: None, admin_socket: None, replica: None }, config, env, stop)
                .await?;
        }
        Arguments::Floor { counter, listen, upstream } => {
            tell(TcpListener::bind(counter)?);
            let _floor = FloorProxy::start(listen, upstream).await?;
            tokio::signal::ctrl_c().await?;
        }
    }
    Ok(())
}

/// Answers with the counts, in a thread that ends with the program.
fn tell(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let counts = format!("{} {}\n", ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
            // Who went away does not want to know.
            _ = stream.and_then(|mut stream| stream.write_all(counts.as_bytes()));
        }
    });
}

//! A proxy that spoils conversations, as a program: `fault-proxy --listen ADDRESS --upstream ADDRESS --rate 0.2`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use portcullis_tests::proxies::fault::{Fault, FaultProxy, Faults};

/// Passes HTTP/1.1 on and spoils some of it, until it is interrupted; says then what it did.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address and port of the upstream.
    #[arg(long)]
    upstream: SocketAddr,
    /// The same seed spoils the same exchanges, counted in the order in which they come.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of exchanges that are spoiled, from 0 to 1.
    #[arg(long, default_value_t = 0.2)]
    rate: f64,
    /// Kinds of faults, with commas; all, if none is named.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<Fault>,
    /// Longest wait of a fault, in milliseconds.
    #[arg(long, default_value_t = 500)]
    pause_ms: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { listen, upstream, seed, rate, kinds, pause_ms } = Arguments::parse();
    let kinds = if kinds.is_empty() { Fault::ALL.to_vec() } else { kinds };
    let faults = Faults { seed, rate, kinds, pause: Duration::from_millis(pause_ms) };
    let proxy = FaultProxy::start_at(listen, upstream, faults)?;
    let mut out = std::io::stdout();
    writeln!(out, "http://{}", proxy.address)?;
    tokio::signal::ctrl_c().await?;
    writeln!(out, "{} exchanges", proxy.exchanges())?;
    for (fault, count) in proxy.counts() {
        writeln!(out, "{count:6} {}", fault.name())?;
    }
    Ok(())
}

//! The floor of `docs/benchmarks.md` as a program: `floor-proxy --listen ADDRESS --upstream http://ADDRESS`.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use portcullis_tests::proxies::floor::FloorProxy;

/// A reverse proxy that copies and does nothing else, until it is interrupted.
#[derive(Parser)]
struct Arguments {
    /// Address and port to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// Where requests go, as `http://ADDRESS:PORT`; paths stay as they are.
    #[arg(long)]
    upstream: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let upstream = arguments.upstream.trim_start_matches("http://").trim_end_matches('/');
    let upstream = upstream.parse().with_context(|| format!("{upstream} is no address and port"))?;
    let _floor = FloorProxy::start(arguments.listen, upstream).await?;
    Ok(tokio::signal::ctrl_c().await?)
}

//! The example servers that quickstart runs, each as a process of its own.

use anyhow::Context as _;
use clap::ValueEnum;
use portcullis_example_upstreams::{Example, serve_http, serve_stdio};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::on_runtime;

#[derive(clap::Args)]
pub(super) struct ExampleUpstream {
    /// Which of them is served.
    which: Which,
    /// Serve streamable HTTP on this loopback port instead of standard input and output, until standard input ends.
    #[arg(long)]
    port: Option<u16>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Notes,
    Tracker,
}

impl ExampleUpstream {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let example = match self.which {
            Which::Notes => Example::Notes,
            Which::Tracker => Example::Tracker,
        };
        on_runtime(async {
            match self.port {
                Some(port) => {
                    let listener = TcpListener::bind(("127.0.0.1", port)).await;
                    let listener = listener.with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
                    serve_http(listener, example, end_of_input()).await.context("the example server failed")
                }
                None => serve_stdio(example).await.context("the example server failed"),
            }
        })
    }
}

/// Resolves when whoever started us is gone.
async fn end_of_input() {
    let mut buffer = [0; 256];
    let mut input = tokio::io::stdin();
    while !matches!(input.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

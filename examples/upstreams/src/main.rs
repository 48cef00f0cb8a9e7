//! Runs one of the example servers on its own: over standard input and output, or at a loopback address.

use std::io::{self, Write as _};
use std::process::ExitCode;

use portcullis_example_upstreams::{Example, serve_http, serve_stdio};
use tokio::net::TcpListener;

const USAGE: &str = "Usage: portcullis-example-upstreams notes|tracker [--http ADDRESS]

Without --http the server speaks MCP over standard input and output. With it, it listens at ADDRESS, which must be
a loopback address such as 127.0.0.1:7501, and serves MCP at /mcp.
";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match arguments.as_slice() {
        [name] => match name.parse() {
            Ok(example) => serve_stdio(example).await,
            Err(_) => return usage(),
        },
        [name, "--http", address] => match name.parse() {
            Ok(example) => serve_at(address, example).await,
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn serve_at(address: &str, example: Example) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    say(&format!("{example} at http://{}/mcp\n", listener.local_addr()?));
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    serve_http(listener, example, interrupted).await
}

fn usage() -> ExitCode {
    say(USAGE);
    ExitCode::from(2)
}

/// Standard output belongs to the protocol, so people are told on the other stream.
fn say(text: &str) {
    // Nobody is left to hear of a failure.
    let _ = io::stderr().write_all(text.as_bytes());
}

//! Runs the fixture upstream on its own: `fixture-upstream http PORT` or `fixture-upstream stdio`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use portcullis_tests::upstreams::fixture::{Eras, Fixture, Replies, Settings, serve_stdio};

const USAGE: &str = "Usage: fixture-upstream http PORT [OPTION…]
       fixture-upstream stdio [OPTION…]

Options:
  --legacy           only the revisions with sessions (2025-11-25, 2025-06-18)
  --modern           only the revision without (2026-07-28)
  --json             reply with JSON where event streams are possible
  --awkward-sse      reply with event streams that use all that the format allows
  --page-size N      so many tools on a page of tools/list

Over HTTP it is served at http://127.0.0.1:PORT/mcp until it is interrupted (PORT 0 takes a free one, which is
printed); over stdio until standard input ends.
";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match arguments.as_slice() {
        ["http", port, options @ ..] => match (port.parse(), settings(options)) {
            (Ok(port), Some(settings)) => serve_http(Settings { port, ..settings }).await,
            _ => return usage(),
        },
        ["stdio", options @ ..] => match settings(options) {
            Some(settings) => serve_stdio(settings).await,
            None => return usage(),
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

fn settings(options: &[&str]) -> Option<Settings> {
    let mut settings = Settings::default();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "--legacy" => settings.eras = Eras::Legacy,
            "--modern" => settings.eras = Eras::Modern,
            "--json" => settings.replies = Replies::Json,
            "--awkward-sse" => settings.replies = Replies::AwkwardSse,
            "--page-size" => settings.page_size = Some(options.next()?.parse().ok()?),
            _ => return None,
        }
    }
    Some(settings)
}

async fn serve_http(settings: Settings) -> io::Result<()> {
    let fixture = Fixture::with(settings).await?;
    say(&format!("{}\n", fixture.url));
    tokio::signal::ctrl_c().await
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

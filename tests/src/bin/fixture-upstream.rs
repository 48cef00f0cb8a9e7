//! Runs the fixture upstream on its own: `fixture-upstream http PORT` or `fixture-upstream stdio`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use portcullis_tests::upstreams::fixture::{Eras, Fixture, ModernRefusal, Replies, Settings, serve_stdio};

const USAGE: &str = "Usage: fixture-upstream http PORT [OPTION…]
       fixture-upstream stdio [OPTION…]

Options:
  --legacy           only the revisions with sessions (2025-11-25 and before)
  --modern           only the revision without (2026-07-28)
  --revision R       of those with sessions only this one
  --legacy-sse       serve HTTP+SSE (2024-11-05) as well, at /sse
  --stateless        do without session ids in the revisions that have them
  --quiet            tell nobody of changes
  --refuse HOW       with --legacy, answer requests of 2026-07-28 with bad-request, not-found or method-not-found
  --json             reply with JSON where event streams are possible
  --awkward-sse      reply with event streams that use all that the format allows
  --page-size N      so many items on a page of a list

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
            "--revision" => settings.revisions = revision(options.next()?)?,
            "--legacy-sse" => settings.legacy_sse = true,
            "--stateless" => settings.stateless = true,
            "--quiet" => settings.quiet = true,
            "--refuse" => settings.modern_refusal = refusal(options.next()?)?,
            "--page-size" => settings.page_size = Some(options.next()?.parse().ok()?),
            _ => return None,
        }
    }
    Some(settings)
}

fn revision(name: &str) -> Option<&'static [&'static str]> {
    const REVISIONS: [&[&str]; 4] = [&["2025-11-25"], &["2025-06-18"], &["2025-03-26"], &["2024-11-05"]];
    REVISIONS.into_iter().find(|revision| revision.contains(&name))
}

fn refusal(name: &str) -> Option<ModernRefusal> {
    Some(match name {
        "bad-request" => ModernRefusal::BadRequest,
        "not-found" => ModernRefusal::NotFound,
        "method-not-found" => ModernRefusal::MethodNotFound,
        _ => return None,
    })
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

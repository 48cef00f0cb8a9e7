//! Pinned definitions of tools: listed, compared with what is offered now, accepted, forgotten.

use std::collections::VecDeque;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::admin::{Paged, ask, every_page, segment, table, text};
use super::output::{Format, plain, tell};
use super::{WithConfig, print};

/// Lines around a difference that are shown.
const CONTEXT: usize = 3;
/// Work that a comparison may be, in pairs of lines; what is larger is shown as if all were different.
const MAX_PAIRS: usize = 4_000_000;

#[derive(Subcommand)]
pub(super) enum PinCommand {
    /// List the tools of all upstreams and whether their definitions are those that were agreed to.
    List {
        /// Only those that somebody has to look at: changed since they were pinned, or never pinned.
        #[arg(long)]
        changed: bool,
        /// Only those of this upstream.
        #[arg(long)]
        upstream: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    /// Show in what a tool's definition differs from the one that is pinned.
    Show {
        /// UPSTREAM/TOOL, by the upstream's own name for it.
        tool: String,
        #[command(flatten)]
        with: WithConfig,
    },
    /// Pin the definition that a tool has now, or with --all those of all tools of an upstream.
    Accept {
        /// UPSTREAM/TOOL, or with --all the UPSTREAM.
        tool: String,
        /// All that the upstream offers to everybody; pins of what it does not are forgotten, unless people may have lists
        /// of their own there.
        #[arg(long)]
        all: bool,
        /// Only if the definition has this digest.
        #[arg(long, value_name = "SHA256", conflicts_with = "all")]
        digest: Option<String>,
        #[command(flatten)]
        with: WithConfig,
    },
    /// Forget all pins of an upstream that is not configured any more. Should it come back, it is taken as it is then.
    Forget {
        /// The name that the upstream had.
        upstream: String,
        #[command(flatten)]
        with: WithConfig,
    },
}

impl PinCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { changed, upstream, page } => page.tell(&pins(changed, upstream.as_deref())?, "pins", listed),
            Self::Show { tool, with } => show(&with, &tool),
            Self::Accept { tool, all: false, digest, with } => accept(&with, &tool, digest),
            Self::Accept { tool: upstream, all: true, digest: _, with } => accept_all(&with, &upstream),
            Self::Forget { upstream, with } => forget(&with, &upstream),
        }
    }
}

/// The address of the list.
fn pins(changed: bool, upstream: Option<&str>) -> anyhow::Result<String> {
    let mut path = format!("/api/v1/pins?changed={changed}");
    if let Some(upstream) = upstream {
        path.push_str(&format!("&upstream={}", segment(upstream)?));
    }
    Ok(path)
}

fn listed(pins: &[Value]) -> String {
    let row = |pin: &Value| {
        let short = |digest: &Value| text(digest).chars().take(12).collect::<String>();
        let pinned = &pin["pinned"];
        vec![
            format!("{}/{}", text(&pin["upstream"]), text(&pin["tool"])),
            text(&pin["state"]).to_owned(),
            short(&pinned["digest"]),
            short(&pin["offered_digest"]),
            text(&pinned["first_pinned"]).to_owned(),
            text(&pinned["accepted"]).to_owned(),
            text(&pinned["by"]).to_owned(),
        ]
    };
    let head = ["TOOL", "STATE", "PINNED", "OFFERED", "FIRST PINNED", "ACCEPTED", "BY"];
    table(&head, pins.iter().map(row))
}

fn definition(with: &WithConfig, tool: &str) -> anyhow::Result<Value> {
    let (upstream, tool) = split(tool)?;
    let path = format!("/api/v1/pins/definition?upstream={}&tool={}", segment(upstream)?, segment(tool)?);
    ask(with, Method::GET, &path, None)
}

fn split(tool: &str) -> anyhow::Result<(&str, &str)> {
    tool.split_once('/').with_context(|| format!("{tool:?} is not UPSTREAM/TOOL"))
}

fn show(with: &WithConfig, tool: &str) -> anyhow::Result<()> {
    let pin = definition(with, tool)?;
    tell(with, &pin, |pin| shown(tool, pin))
}

fn shown(tool: &str, pin: &Value) -> String {
    let (pinned, offered) = (&pin["pinned_definition"], &pin["offered_definition"]);
    let mut out = summary(tool, pin);
    let lines = |definition: &Value| match definition {
        Value::Null => Vec::new(),
        definition => format!("{definition:#}").lines().map(ToOwned::to_owned).collect::<Vec<_>>(),
    };
    match (pinned, offered) {
        (Value::Null, _) if pin["pinned"].is_object() => {
            out.push_str("\nThe pinned definition was too large to be kept; only its digest is.");
        }
        _ if pin["state"] == "pinned" => out.push_str(&format!("\n{offered:#}")),
        (pinned, offered) => out.push_str(&format!("\n{}", diff(&lines(pinned), &lines(offered)))),
    }
    out
}

/// What is pinned and what is offered, and where they differ.
fn summary(tool: &str, pin: &Value) -> String {
    let pinned = &pin["pinned"];
    let or_none = |digest: &Value| digest.as_str().unwrap_or("nothing").to_owned();
    let mut out = format!(
        "{tool}: {}\npinned   {}\noffered  {}",
        text(&pin["state"]),
        or_none(&pinned["digest"]),
        or_none(&pin["offered_digest"])
    );
    let parts: Vec<&str> = pin["differs_in"].as_array().into_iter().flatten().map(text).collect();
    if !parts.is_empty() {
        out.push_str(&format!("\ndiffers in {}", parts.join(", ")));
    }
    out
}

fn accept(with: &WithConfig, tool: &str, digest: Option<String>) -> anyhow::Result<()> {
    let pin = definition(with, tool)?;
    let (upstream, name) = split(tool)?;
    // What is shown here is what is accepted, even if the upstream changes it in this moment.
    let shown = pin["offered_digest"].as_str().map(ToOwned::to_owned);
    let Some(digest) = digest.or(shown) else { bail!("the upstream does not offer {tool}") };
    let body = json!({ "upstream": upstream, "tool": name, "digest": digest });
    let answer = ask(with, Method::POST, "/api/v1/pins/accept", Some(body))?;
    tell(with, &answer, |_| format!("{}\naccepted {digest}", summary(tool, &pin)))
}

fn accept_all(with: &WithConfig, upstream: &str) -> anyhow::Result<()> {
    let changed = every_page(with, &pins(true, Some(upstream))?, "pins")?;
    let body = json!({ "upstream": upstream, "all": true });
    let answer = ask(with, Method::POST, "/api/v1/pins/accept", Some(body))?;
    if !changed.is_empty() && with.output == Format::Table {
        print(&plain(&listed(&changed)))?;
    }
    tell(with, &answer, |answer| format!("the definitions of {} tools of {upstream} are pinned", answer["accepted"]))
}

fn forget(with: &WithConfig, upstream: &str) -> anyhow::Result<()> {
    let answer = ask(with, Method::POST, "/api/v1/pins/forget", Some(json!({ "upstream": upstream })))?;
    tell(with, &answer, |answer| format!("the pins of {} tools of {upstream} are forgotten", answer["forgotten"]))
}

/// What happened to a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Goes,
    Comes,
}

/// The lines in which two texts differ, and some around them, each marked with what happened to it.
fn diff(old: &[String], new: &[String]) -> String {
    let lines = compare(old, new);
    let is_near = |at: usize| {
        let near = &lines[at.saturating_sub(CONTEXT)..lines.len().min(at + CONTEXT + 1)];
        near.iter().any(|(fate, _)| *fate != Fate::Stays)
    };
    let mut out = Vec::new();
    let mut gap = false;
    for (at, (fate, line)) in lines.iter().enumerate() {
        if !is_near(at) {
            if !std::mem::replace(&mut gap, true) {
                out.push("…".to_owned());
            }
            continue;
        }
        gap = false;
        let mark = match fate {
            Fate::Stays => ' ',
            Fate::Goes => '-',
            Fate::Comes => '+',
        };
        out.push(format!("{mark} {line}"));
    }
    out.join("\n")
}

/// All lines of both texts, those that are in both once: a longest common subsequence of what is between a common beginning
/// and a common end.
fn compare<'a>(old: &'a [String], new: &'a [String]) -> Vec<(Fate, &'a str)> {
    let same = |(one, other): &(&String, &String)| one == other;
    let head = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(same).count();
    let (old_mid, new_mid) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);
    let stays = |lines: &'a [String]| lines.iter().map(|line| (Fate::Stays, line.as_str()));
    let goes = old_mid.iter().map(|line| (Fate::Goes, line.as_str()));
    let comes = new_mid.iter().map(|line| (Fate::Comes, line.as_str()));
    let middle: Vec<_> = if old_mid.len().saturating_mul(new_mid.len()) <= MAX_PAIRS {
        subsequence(old_mid, new_mid)
    } else {
        goes.chain(comes).collect()
    };
    stays(&old[..head]).chain(middle).chain(stays(&old[old.len() - tail..])).collect()
}

fn subsequence<'a>(old: &'a [String], new: &'a [String]) -> Vec<(Fate, &'a str)> {
    // Length of the longest common subsequence of what follows each pair of places.
    let width = new.len() + 1;
    let mut longest = vec![0_u32; (old.len() + 1) * width];
    for (at, line) in old.iter().enumerate().rev() {
        for (with, other) in new.iter().enumerate().rev() {
            longest[at * width + with] = if line == other {
                longest[(at + 1) * width + with + 1] + 1
            } else {
                longest[(at + 1) * width + with].max(longest[at * width + with + 1])
            };
        }
    }
    let (mut at, mut with) = (0, 0);
    let mut lines = Vec::with_capacity(old.len().max(new.len()));
    let mut comes = VecDeque::new();
    while at < old.len() || with < new.len() {
        if at < old.len() && with < new.len() && old[at] == new[with] {
            lines.extend(comes.drain(..));
            lines.push((Fate::Stays, old[at].as_str()));
            (at, with) = (at + 1, with + 1);
        } else if at < old.len()
            && (with == new.len() || longest[(at + 1) * width + with] >= longest[at * width + with + 1])
        {
            lines.push((Fate::Goes, old[at].as_str()));
            at += 1;
        } else {
            comes.push_back((Fate::Comes, new[with].as_str()));
            with += 1;
        }
    }
    lines.extend(comes);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect()
    }

    fn told(old: &str, new: &str) -> String {
        diff(&lines(old), &lines(new))
    }

    #[test]
    fn what_goes_stands_before_what_comes_in_its_place() {
        assert_eq!(told("a b c", "a x y c"), "  a\n- b\n+ x\n+ y\n  c");
        assert_eq!(told("", "a b"), "+ a\n+ b");
        assert_eq!(told("a b", ""), "- a\n- b");
        assert_eq!(told("a b c d", "b d e"), "- a\n  b\n- c\n  d\n+ e");
    }

    #[test]
    fn lines_far_from_a_difference_are_left_out() {
        assert_eq!(
            told("1 2 3 4 5 x 5 4 3 2 1", "1 2 3 4 5 y 5 4 3 2 1"),
            "…\n  3\n  4\n  5\n- x\n+ y\n  5\n  4\n  3\n…"
        );
        assert_eq!(told("1 2", "1 2"), "…");
    }

    #[test]
    fn much_that_differs_is_told_without_much_work() {
        let many = |from: usize| (from..from + 20_000).map(|number| number.to_string()).collect::<Vec<_>>();
        let told = diff(&many(0), &many(100_000));
        assert_eq!(told.lines().count(), 40_000);
    }
}

//! The store: held and followed by the living gateway, or such that a gateway can open it; and the time by its clock.

use std::path::PathBuf;

use serde_json::Value;

use super::Subject;
use super::address::in_words;
use super::check::Check;
use crate::config::StoreUrl;
use crate::gateway;
use crate::store::{Location, Peeked, Store, StoreError};

const AREA: &str = "store";
/// Difference of clocks, in milliseconds, that is told of.
const ODD: u64 = 1_000;

pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    match &subject.living {
        Some(status) => of_living(&status["store"]),
        None => vec![of_closed(subject.store().await)],
    }
}

fn of_living(store: &Value) -> Vec<Check> {
    let deployment = store["deployment"].as_str().unwrap_or_default();
    let mut checks = vec![if store["stale"] == true {
        let finding = "the gateway cannot follow it, and refuses callers";
        Check::problem(AREA, finding, "look at the database and the network to it, and into the gateway's log")
    } else {
        Check::ok(AREA, format!("the living gateway holds it (deployment {deployment})"))
    }];
    if store["shared"] == true {
        let offset = store["clock_offset_ms"].as_i64().unwrap_or_default();
        let finding = format!("{offset} ms between this machine's clock and the store's");
        checks.push(match offset.unsigned_abs() {
            0..ODD => Check::ok("clock", finding),
            ODD.. => {
                Check::warning("clock", finding, "set both by the network: the gateway goes by the store's until then")
            }
        });
    }
    checks
}

/// A store that no gateway has open.
pub(super) enum Closed {
    InMemory,
    /// This file is not there.
    NotMade(PathBuf),
    Readable(Peeked),
    /// It tells nothing.
    Unreadable(StoreError),
}

impl Closed {
    /// A file is opened for reading alone, and repaired by nobody here.
    pub(super) async fn look(subject: &Subject) -> Self {
        let url = &subject.config.store;
        if *url == StoreUrl::Memory {
            return Self::InMemory;
        }
        match gateway::location(url) {
            Location::File(path) if !path.exists() => Self::NotMade(path),
            location => match Store::peek(location, subject.env.clone()).await {
                Ok(peeked) => Self::Readable(peeked),
                Err(error) => Self::Unreadable(error),
            },
        }
    }
}

/// What can be told of one that no gateway has open.
fn of_closed(store: &Closed) -> Check {
    match store {
        Closed::InMemory => {
            let finding = "it is in memory: everything is forgotten when the gateway stops";
            Check::warning(AREA, finding, "leave `store.url` out, or name a file or a database")
        }
        Closed::NotMade(path) => {
            Check::ok(AREA, format!("{} is not there yet: the first start makes it", path.display()))
        }
        Closed::Readable(peeked) => Check::ok(AREA, format!("it can be opened (deployment {})", peeked.deployment)),
        Closed::Unreadable(error) => {
            let (finding, mend) = judge(error);
            match error {
                StoreError::Absent => Check::ok(AREA, finding),
                StoreError::OlderSchema { .. } | StoreError::NotClosed { .. } => Check::warning(AREA, finding, mend),
                _ => Check::problem(AREA, finding, mend),
            }
        }
    }
}

fn judge(error: &StoreError) -> (String, &'static str) {
    let told = in_words(error);
    match error {
        StoreError::Absent => ("there is none yet: the first start makes it".to_owned(), ""),
        StoreError::InUse { .. } => {
            (told, "a gateway has it open that does not answer at this admin socket: compare `data_dir`")
        }
        StoreError::NewerSchema { .. } | StoreError::UnknownTable { .. } => {
            (told, "use the newer version, or restore a backup of before")
        }
        StoreError::NotClosed { .. } => (told, "start the gateway; its log says whether anything was lost"),
        StoreError::OlderSchema { .. } => (told, "start the gateway once; take a backup before"),
        StoreError::OpenDatabase { .. } | StoreError::Unavailable { .. } => {
            (told, "look at `store.url`, `store.password`, the database and the network to it")
        }
        _ => (told, "look at its file and at the disk; a backup is restored by `portcullis restore`"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::Grade;
    use super::*;

    #[test]
    fn a_store_that_is_not_followed_is_a_problem_and_a_wrong_clock_a_warning() {
        let grades = |stale: bool, offset: i64| -> Vec<Grade> {
            let store = json!({ "stale": stale, "shared": true, "clock_offset_ms": offset, "deployment": "d" });
            of_living(&store).iter().map(|check| check.grade).collect()
        };
        assert_eq!(grades(false, -3), [Grade::Ok, Grade::Ok]);
        assert_eq!(grades(true, -5_000), [Grade::Problem, Grade::Warning]);
        assert_eq!(of_living(&json!({ "stale": false, "shared": false, "clock_offset_ms": 9_999 })).len(), 1);
    }
}

//! A trail as it grows: what is new in a list whose newest rows come first, asked for again and again.

use std::collections::HashSet;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::admin::{PAGE, ask, page};
use super::output::{Format, plain, print_on, rows};
use super::{WithConfig, on_runtime};

/// Between two questions.
const POLL: Duration = Duration::from_secs(1);
/// Pages that are read to find the last row that was seen. What is beyond them is left out, and that is told.
const MAX_PAGES: usize = 50;

/// A list that is followed.
pub(super) struct Trail<'a> {
    pub(super) with: &'a WithConfig,
    /// Its address, perhaps with a query.
    pub(super) path: &'a str,
    /// The member of the answer that has the rows.
    pub(super) member: &'a str,
    /// The member of a row that no other row has alike.
    pub(super) id: &'a str,
}

impl Trail<'_> {
    /// Prints the last `shown` rows and then each new one, the oldest first, until nobody reads any more. `line` is a row for
    /// people, or nothing where it is not wanted; JSON is a document on each line.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub(super) fn follow(&self, shown: usize, line: impl Fn(&Value) -> Option<String>) -> anyhow::Result<()> {
        let mut seen = Seen::default();
        let begun = self.ask(None)?;
        let wanted: Vec<&Value> = rows(&begun, self.member).iter().filter(|row| line(row).is_some()).collect();
        let mut goes_on = self.print(wanted.into_iter().take(shown).rev(), &line)?;
        seen.only(rows(&begun, self.member).iter().map(|row| row[self.id].to_string()));
        while goes_on {
            on_runtime(async {
                tokio::time::sleep(POLL).await;
                Ok(())
            })?;
            let (new, is_whole) = self.news(&mut seen)?;
            if !is_whole {
                goes_on = self.say_that_some_are_left_out()?;
            }
            goes_on = goes_on && self.print(new.iter(), &line)?;
        }
        Ok(())
    }

    /// Rows that were not seen, oldest first, and whether these are all.
    fn news(&self, seen: &mut Seen) -> anyhow::Result<(Vec<Value>, bool)> {
        let (mut found, mut cursor, mut is_whole) = (Vec::new(), None, false);
        for _ in 0..MAX_PAGES {
            let mut answer = self.ask(cursor.as_deref())?;
            cursor = answer["next_cursor"].as_str().map(ToOwned::to_owned);
            let Value::Array(page) = answer[self.member].take() else { break };
            let reaches_back = page.iter().any(|row| seen.has(&row[self.id].to_string()));
            found.extend(page);
            if reaches_back || cursor.is_none() {
                is_whole = true;
                break;
            }
        }
        let ids: Vec<String> = found.iter().map(|row| row[self.id].to_string()).collect();
        let mut new: Vec<Value> = found.into_iter().filter(|row| !seen.has(&row[self.id].to_string())).collect();
        new.reverse();
        // Where there is nothing any more, what was seen stays seen.
        if !ids.is_empty() {
            seen.only(ids);
        }
        Ok((new, is_whole))
    }

    fn ask(&self, cursor: Option<&str>) -> anyhow::Result<Value> {
        ask(self.with, Method::GET, &page(self.path, PAGE, cursor), None)
    }

    fn print<'r>(
        &self,
        rows: impl Iterator<Item = &'r Value>,
        line: &impl Fn(&Value) -> Option<String>,
    ) -> anyhow::Result<bool> {
        for row in rows {
            let Some(told) = line(row) else { continue };
            let told = match self.with.output {
                Format::Table => plain(&told.replace('\n', " ")),
                Format::Json => row.to_string(),
            };
            if !print_on(&told)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn say_that_some_are_left_out(&self) -> anyhow::Result<bool> {
        match self.with.output {
            Format::Table => print_on("… more than can be read at once: some are left out"),
            Format::Json => Ok(true),
        }
    }
}

/// What the last look saw.
#[derive(Default)]
struct Seen(HashSet<String>);

impl Seen {
    fn has(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    fn only(&mut self, ids: impl IntoIterator<Item = String>) {
        self.0 = ids.into_iter().collect();
    }
}

//! A small issue tracker: list, read, create, comment, close.
//!
//! One of the issues that it starts with quotes a customer's e-mail address (made up), as issues do.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tool::{Answer, Arguments, Effect, Mistake, Tool, Toolbox, check_text, object};

const MAX_ISSUES: usize = 1_000;
const MAX_COMMENTS: usize = 100;
const MAX_TITLE_BYTES: usize = 200;
const MAX_TEXT_BYTES: usize = 16 * 1024;
const MAX_LABELS: usize = 10;
const MAX_LABEL_BYTES: usize = 50;
const MAX_LISTED: usize = 100;
const DEFAULT_LISTED: usize = 20;

pub(crate) struct Tracker {
    /// The issue at position *n* has number *n* + 1; issues are never removed.
    issues: Vec<Issue>,
}

#[derive(Serialize)]
struct Issue {
    number: usize,
    title: String,
    body: String,
    state: State,
    labels: Vec<String>,
    comments: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Open,
    Closed,
}

pub(crate) fn toolbox() -> Toolbox<Tracker> {
    Toolbox {
        name: "example-tracker",
        title: "Issue tracker",
        instructions: "Issues of a small web shop. Use list_issues to find an issue's number; get_issue shows the \
                       whole of it.",
        tools: tools(),
        state: Mutex::new(Tracker::seeded()),
    }
}

fn tools() -> Vec<Tool<Tracker>> {
    vec![
        Tool {
            name: "list_issues",
            title: "List issues",
            description: "Lists issues by number and title, newest first. Open ones only, unless `state` says more.",
            effect: Effect::Reads,
            input: object(
                json!({
                    "state": { "type": "string", "enum": ["open", "closed", "all"], "default": "open" },
                    "label": { "type": "string", "description": "Only issues that have this label." },
                    "limit": { "type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": DEFAULT_LISTED },
                }),
                &[],
            ),
            output: Some(object(
                json!({
                    "issues": { "type": "array", "items": object(summary_properties(), &["number", "title", "state", "labels"]) },
                    "total": { "type": "integer", "minimum": 0, "description": "How many there are, listed or not." },
                }),
                &["issues", "total"],
            )),
            run: Tracker::list,
        },
        Tool {
            name: "get_issue",
            title: "Get an issue",
            description: "Returns one issue with its text and all comments.",
            effect: Effect::Reads,
            input: object(json!({ "number": number_schema() }), &["number"]),
            output: Some(issue_schema()),
            run: Tracker::get,
        },
        Tool {
            name: "create_issue",
            title: "Create an issue",
            description: "Opens a new issue and returns it with the number it was given.",
            effect: Effect::Adds,
            input: object(
                json!({
                    "title": { "type": "string", "minLength": 1, "maxLength": MAX_TITLE_BYTES },
                    "body": { "type": "string", "minLength": 1, "maxLength": MAX_TEXT_BYTES },
                    "labels": labels_schema(),
                }),
                &["title", "body"],
            ),
            output: Some(issue_schema()),
            run: Tracker::create,
        },
        Tool {
            name: "comment_issue",
            title: "Comment on an issue",
            description: "Adds a comment to an issue, open or closed, and returns the issue.",
            effect: Effect::Adds,
            input: object(
                json!({
                    "number": number_schema(),
                    "text": { "type": "string", "minLength": 1, "maxLength": MAX_TEXT_BYTES },
                }),
                &["number", "text"],
            ),
            output: Some(issue_schema()),
            run: Tracker::comment,
        },
        Tool {
            name: "close_issue",
            title: "Close an issue",
            description: "Closes an issue for good; a closed issue cannot be opened again.",
            effect: Effect::Destroys,
            input: object(json!({ "number": number_schema() }), &["number"]),
            output: None,
            run: Tracker::close,
        },
    ]
}

fn number_schema() -> Value {
    json!({ "type": "integer", "minimum": 1, "description": "The issue's number." })
}

fn labels_schema() -> Value {
    json!({ "type": "array", "items": { "type": "string", "maxLength": MAX_LABEL_BYTES }, "maxItems": MAX_LABELS })
}

fn summary_properties() -> Value {
    json!({
        "number": number_schema(),
        "title": { "type": "string" },
        "state": { "type": "string", "enum": ["open", "closed"] },
        "labels": labels_schema(),
    })
}

fn issue_schema() -> Value {
    let mut properties = summary_properties();
    properties["body"] = json!({ "type": "string" });
    properties["comments"] = json!({ "type": "array", "items": { "type": "string" }, "description": "Oldest first." });
    object(properties, &["number", "title", "body", "state", "labels", "comments"])
}

/// Which issues a list shows.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shown {
    #[default]
    Open,
    Closed,
    All,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    #[serde(default)]
    state: Shown,
    label: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneIssue {
    number: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateArguments {
    title: String,
    body: String,
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommentArguments {
    number: usize,
    text: String,
}

impl Tracker {
    fn list(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let ListArguments { state, label, limit } = arguments.read()?;
        let limit = limit.unwrap_or(DEFAULT_LISTED);
        if !(1..=MAX_LISTED).contains(&limit) {
            return Err(Mistake(format!("`limit` must be from 1 to {MAX_LISTED}.")));
        }
        let shown = |issue: &&Issue| match state {
            Shown::Open => issue.state == State::Open,
            Shown::Closed => issue.state == State::Closed,
            Shown::All => true,
        };
        let has_label = |issue: &&Issue| label.as_ref().is_none_or(|label| issue.labels.contains(label));
        let found: Vec<_> = self.issues.iter().rev().filter(shown).filter(has_label).collect();
        let issues: Vec<_> = found
            .iter()
            .take(limit)
            .map(|issue| {
                json!({ "number": issue.number, "title": issue.title, "state": issue.state, "labels": issue.labels })
            })
            .collect();
        Ok(Answer::Structured(json!({ "issues": issues, "total": found.len() })))
    }

    fn get(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let OneIssue { number } = arguments.read()?;
        let issue = self.find(number)?;
        Ok(Answer::Structured(json!(issue)))
    }

    fn create(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let CreateArguments { title, body, labels } = arguments.read()?;
        check_text("title", &title, MAX_TITLE_BYTES)?;
        check_text("body", &body, MAX_TEXT_BYTES)?;
        if labels.len() > MAX_LABELS {
            return Err(Mistake(format!("An issue can have at most {MAX_LABELS} labels.")));
        }
        for label in &labels {
            check_text("labels", label, MAX_LABEL_BYTES)?;
        }
        if self.issues.len() >= MAX_ISSUES {
            return Err(Mistake(format!("The tracker is full: it holds {MAX_ISSUES} issues.")));
        }
        let issue = self.open(title, body, labels);
        Ok(Answer::Structured(json!(issue)))
    }

    fn comment(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let CommentArguments { number, text } = arguments.read()?;
        check_text("text", &text, MAX_TEXT_BYTES)?;
        let issue = self.find(number)?;
        if issue.comments.len() >= MAX_COMMENTS {
            return Err(Mistake(format!("Issue {number} has {MAX_COMMENTS} comments and takes no more.")));
        }
        issue.comments.push(text);
        Ok(Answer::Structured(json!(issue)))
    }

    fn close(&mut self, arguments: Arguments) -> Result<Answer, Mistake> {
        let OneIssue { number } = arguments.read()?;
        let issue = self.find(number)?;
        if issue.state == State::Closed {
            return Ok(Answer::Sentence(format!("Issue {number} was closed already.")));
        }
        issue.state = State::Closed;
        Ok(Answer::Sentence(format!("Closed issue {number} ({}).", issue.title)))
    }

    fn find(&mut self, number: usize) -> Result<&mut Issue, Mistake> {
        let last = self.issues.len();
        number
            .checked_sub(1)
            .and_then(|at| self.issues.get_mut(at))
            .ok_or_else(|| Mistake(format!("There is no issue {number}; the newest is {last}.")))
    }

    fn open(&mut self, title: String, body: String, labels: Vec<String>) -> &mut Issue {
        let number = self.issues.len() + 1;
        self.issues.push(Issue { number, title, body, state: State::Open, labels, comments: Vec::new() });
        self.issues.last_mut().expect("one was just added")
    }

    fn seeded() -> Self {
        let mut tracker = Self { issues: Vec::new() };
        for (title, body, labels, comments, state) in SEED {
            let labels = labels.iter().copied().map(Into::into).collect();
            let issue = tracker.open((*title).into(), (*body).into(), labels);
            issue.comments = comments.iter().copied().map(Into::into).collect();
            issue.state = *state;
        }
        tracker
    }
}

type Seed = (&'static str, &'static str, &'static [&'static str], &'static [&'static str], State);

const SEED: &[Seed] = &[
    ("Set up the project", "Repository, build, a page that says hello.", &["chore"], &["Done."], State::Closed),
    (
        "Checkout fails for addresses without a house number",
        "Steps: put anything into the basket, enter an address without a house number, press Pay.\n\
         Expected: the order goes through. Seen: an error page.",
        &["bug", "checkout"],
        &["The form's check is too strict; the courier does not need the number."],
        State::Open,
    ),
    (
        "Customer was charged twice",
        "Reported by mail from priya.raman@example.com: two charges of 42.50 for one order on the same day. \
         Please find out which of them to give back and answer her.",
        &["bug", "billing", "customer"],
        &[],
        State::Open,
    ),
    (
        "Search should find plurals",
        "Searching for \"lamps\" finds nothing although there are twelve pages with \"lamp\".",
        &["enhancement", "search"],
        &["A stemmer would do.", "Let us try that in one category first."],
        State::Open,
    ),
    (
        "Write down how a release is made",
        "Only one of us knows it. That should change before the summer holidays.",
        &["docs"],
        &[],
        State::Open,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn call(tracker: &Toolbox<Tracker>, tool: &str, arguments: Value) -> (bool, String) {
        let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
        let result = tracker.call(tool, arguments).expect("the tool exists");
        (result.get("isError").is_none(), result["content"][0]["text"].as_str().unwrap().to_owned())
    }

    #[test]
    fn answers_say_what_was_asked_for() {
        let cases = [
            ("list_issues", json!({}), true, r#""total":4"#),
            ("list_issues", json!({ "state": "all", "limit": 1 }), true, r#""number":5"#),
            ("list_issues", json!({ "state": "closed" }), true, "Set up the project"),
            ("list_issues", json!({ "label": "billing" }), true, r#""number":3"#),
            ("list_issues", json!({ "state": "lost" }), false, "unknown variant `lost`"),
            ("list_issues", json!({ "limit": 101 }), false, "from 1 to 100"),
            ("get_issue", json!({ "number": 3 }), true, "priya.raman@example.com"),
            ("get_issue", json!({ "number": 6 }), false, "There is no issue 6; the newest is 5."),
            ("get_issue", json!({ "number": 0 }), false, "There is no issue 0"),
            ("get_issue", json!({ "number": "3" }), false, "Bad arguments"),
            ("create_issue", json!({ "title": "x" }), false, "missing field `body`"),
            ("comment_issue", json!({ "number": 1, "text": "" }), false, "must not be empty"),
            ("close_issue", json!({ "number": 1 }), true, "closed already"),
        ];
        let tracker = toolbox();
        for (tool, arguments, fine, part) in cases {
            let (ok, text) = call(&tracker, tool, arguments.clone());
            assert_eq!(ok, fine, "{tool} {arguments}: {text}");
            assert!(text.contains(part), "{tool} {arguments}: {text}");
        }
    }

    #[test]
    fn an_issue_is_created_commented_and_closed() {
        let tracker = toolbox();
        let created = call(&tracker, "create_issue", json!({ "title": "New", "body": "Text", "labels": ["bug"] }));
        assert!(created.0 && created.1.contains(r#""number":6"#), "{created:?}");
        let commented = call(&tracker, "comment_issue", json!({ "number": 6, "text": "Seen." }));
        assert!(commented.0 && commented.1.contains(r#""comments":["Seen."]"#), "{commented:?}");
        assert_eq!(call(&tracker, "close_issue", json!({ "number": 6 })), (true, "Closed issue 6 (New).".into()));
        assert!(call(&tracker, "list_issues", json!({ "state": "closed" })).1.contains("New"));
    }

    #[test]
    fn the_tracker_and_its_issues_are_bounded() {
        let tracker = toolbox();
        for _ in 0..MAX_COMMENTS {
            assert!(call(&tracker, "comment_issue", json!({ "number": 5, "text": "x" })).0);
        }
        assert!(!call(&tracker, "comment_issue", json!({ "number": 5, "text": "x" })).0);
        for _ in SEED.len()..MAX_ISSUES {
            assert!(call(&tracker, "create_issue", json!({ "title": "x", "body": "x" })).0);
        }
        assert!(call(&tracker, "create_issue", json!({ "title": "x", "body": "x" })).1.contains("full"));
    }
}

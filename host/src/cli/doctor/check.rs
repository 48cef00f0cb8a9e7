//! What one look found.

use serde_json::{Value, json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grade {
    Ok,
    /// It works, and somebody should know.
    Warning,
    /// It does not work, or not for long.
    Problem,
}

impl Grade {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at. No text holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// What it belongs to, in a word.
    pub(super) area: &'static str,
    pub(super) grade: Grade,
    /// In one line.
    pub(super) finding: String,
    /// What to do about it.
    pub(super) mend: Option<String>,
}

impl Check {
    pub(super) fn ok(area: &'static str, finding: impl Into<String>) -> Self {
        Self { area, grade: Grade::Ok, finding: finding.into(), mend: None }
    }

    pub(super) fn warning(area: &'static str, finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { area, grade: Grade::Warning, finding: finding.into(), mend: Some(mend.into()) }
    }

    pub(super) fn problem(area: &'static str, finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { area, grade: Grade::Problem, finding: finding.into(), mend: Some(mend.into()) }
    }

    pub(super) fn view(&self) -> Value {
        let Self { area, grade, finding, mend } = self;
        json!({ "area": area, "result": grade.word(), "finding": finding, "mend": mend })
    }
}

/// All of them, for scripts.
pub(super) fn view(checks: &[Check]) -> Value {
    let count = |grade| checks.iter().filter(|check| check.grade == grade).count();
    json!({
        "problems": count(Grade::Problem),
        "warnings": count(Grade::Warning),
        "checks": checks.iter().map(Check::view).collect::<Vec<_>>(),
    })
}

/// All of them, for people: a line each, with how to mend it below.
pub(super) fn in_words(checks: &[Check]) -> String {
    let area = checks.iter().map(|check| check.area.len()).max().unwrap_or_default();
    let mut lines = Vec::new();
    for Check { area: of, grade, finding, mend } in checks {
        lines.push(format!("{:7}  {of:area$}  {}", grade.word(), finding.replace('\n', " ")));
        if let Some(mend) = mend {
            lines.push(format!("{:7}  {:area$}  → {}", "", "", mend.replace('\n', " ")));
        }
    }
    let count = |grade| checks.iter().filter(|check| check.grade == grade).count();
    lines.push(match (count(Grade::Problem), count(Grade::Warning)) {
        (0, 0) => "all is well".to_owned(),
        (problems, warnings) => format!("{problems} problems, {warnings} warnings"),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_a_line_with_its_remedy_below() {
        let checks = [
            Check::ok("clock", "it is right"),
            Check::problem("disk", "no\nspace", "make some"),
            Check::warning("replicas", "two differ", "reload them"),
        ];
        assert_eq!(
            in_words(&checks),
            "ok       clock     it is right\nproblem  disk      no space\n                   → make some\n\
             warning  replicas  two differ\n                   → reload them\n1 problems, 1 warnings"
        );
        assert_eq!(in_words(&checks[..1]).lines().last(), Some("all is well"));
        let view = view(&checks);
        assert_eq!((&view["problems"], &view["warnings"]), (&json!(1), &json!(1)));
        assert_eq!(
            view["checks"][0],
            json!({ "area": "clock", "result": "ok", "finding": "it is right", "mend": null })
        );
    }
}

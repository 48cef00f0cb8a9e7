//! What the forms and lists of several parts have in common.

use http::StatusCode;

use crate::http::api::Problem;
use crate::http::oauth::csrf::Fields;

/// Something that can be chosen.
pub(super) struct Choice {
    pub(super) value: &'static str,
    pub(super) text: &'static str,
    pub(super) is_chosen: bool,
}

/// What can be chosen of these values, which are shown as these words.
pub(super) fn choices(all: &[(&'static str, &'static str)], chosen: Option<&str>) -> Vec<Choice> {
    let choice = |(value, text): &(&'static str, &'static str)| Choice {
        value,
        text,
        is_chosen: chosen.unwrap_or_default() == *value,
    };
    all.iter().map(choice).collect()
}

/// The paths of what is done to one thing: `/people/ID`, and what stands behind it.
pub(super) struct Paths(pub(super) String);

impl Paths {
    pub(super) fn of(part: &str, id: &str) -> Self {
        Self(page(part, id))
    }

    /// Where the thing itself is shown.
    pub(super) fn own(&self) -> &str {
        &self.0
    }

    pub(super) fn to(&self, what: &str) -> String {
        format!("{}/{what}", self.0)
    }
}

/// The page of one thing of a part. One that is called like a page of ours has its first letter written as its number, which is
/// the same address to whoever reads it and another one to the table of pages.
pub(super) fn page(part: &str, id: &str) -> String {
    let path = format!("{part}/{}", segment(id));
    match (super::pages().any(|row| row.path == path), id.as_bytes()) {
        (true, [first, rest @ ..]) => format!("{part}/%{first:02X}{}", segment(&String::from_utf8_lossy(rest))),
        _ => path,
    }
}

/// A text as one segment of a path, or as a value in a query string (RFC 3986 §2.1).
pub(super) fn segment(text: &str) -> String {
    // What a form would write as a plus sign is no plus sign in a path.
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// What somebody filled in, if it is anything.
pub(super) fn given(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The words of a text: groups, scopes, or addresses line by line.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

/// A page of a list.
pub(super) struct Listed<T> {
    pub(super) rows: Vec<T>,
    /// The cursor of the next page.
    pub(super) next: Option<String>,
    /// Why there are none: a filter says what cannot be.
    pub(super) problem: Option<String>,
}

impl<T> Listed<T> {
    /// What there is. A filter that cannot be read leaves nothing, and the page can say so beside what was typed.
    pub(super) fn of(page: Result<(Vec<T>, Option<String>), Problem>) -> Result<Self, Problem> {
        match page {
            Ok((rows, next)) => Ok(Self { rows, next, problem: None }),
            Err(problem) if problem.status == StatusCode::UNPROCESSABLE_ENTITY => {
                Ok(Self { rows: Vec::new(), next: None, problem: Some(problem.detail) })
            }
            Err(problem) => Err(problem),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        if self.problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }
    }
}

/// The revision of what somebody saw when they sent a form.
pub(super) fn seen(fields: &mut Fields) -> Result<u64, Problem> {
    let revision = fields.take("revision").parse();
    revision.map_err(|_| Problem::invalid("the form does not say what was seen: load its page again"))
}

/// Whether whoever filled in a form can mend what is refused about it, so that the form is shown again. Who saw something
/// else than there is has to look first.
pub(super) fn can_be_mended(problem: &Problem) -> bool {
    let is_stale = matches!(problem.code, "changed_meanwhile" | "precondition_failed");
    problem.status.is_client_error() && problem.status != StatusCode::NOT_FOUND && !is_stale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_that_is_called_like_a_page_has_a_page_of_its_own() {
        assert_eq!(page("/keys", "ci"), "/keys/ci");
        assert_eq!([page("/keys", "new"), page("/keys", "access")], ["/keys/%6Eew", "/keys/%61ccess"]);
        assert_eq!(
            [page("/upstreams", "import"), page("/upstreams", "access")],
            ["/upstreams/%69mport", "/upstreams/access"]
        );
        assert_eq!(page("/policies/bindings", "new"), "/policies/bindings/%6Eew");
        assert_eq!(page("/clients", "https://a.example/c"), "/clients/https%3A%2F%2Fa.example%2Fc");
    }

    #[test]
    fn an_address_is_one_segment_of_a_path() {
        let paths = Paths::of("/clients", "https://app.example/a b?c=d+e#%2F");
        assert_eq!(paths.to("remove"), "/clients/https%3A%2F%2Fapp.example%2Fa%20b%3Fc%3Dd%2Be%23%252F/remove");
        assert_eq!(Paths::of("/people", "0a1b").own(), "/people/0a1b");
    }

    #[test]
    fn a_filter_that_cannot_be_read_leaves_an_empty_list_and_any_other_problem_stops() {
        let listed = Listed::of(Ok((vec![1], None))).unwrap();
        assert_eq!((listed.rows.len(), listed.status()), (1, StatusCode::OK));
        let listed = Listed::<u8>::of(Err(Problem::invalid("`principal` is none"))).unwrap();
        assert_eq!((listed.rows.len(), listed.status()), (0, StatusCode::UNPROCESSABLE_ENTITY));
        assert_eq!(listed.problem.as_deref(), Some("`principal` is none"));
        let other = Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", "no");
        assert!(Listed::<u8>::of(Err(other)).is_err());
    }

    #[test]
    fn what_was_changed_meanwhile_is_looked_at_again() {
        let problem = |status, code| Problem::new(status, code, "no");
        assert!(can_be_mended(&Problem::invalid("no")));
        assert!(can_be_mended(&problem(StatusCode::CONFLICT, "login_taken")));
        assert!(!can_be_mended(&problem(StatusCode::CONFLICT, "changed_meanwhile")));
        assert!(!can_be_mended(&problem(StatusCode::PRECONDITION_FAILED, "precondition_failed")));
        assert!(!can_be_mended(&Problem::not_found("user")));
        assert!(!can_be_mended(&problem(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable")));
    }
}

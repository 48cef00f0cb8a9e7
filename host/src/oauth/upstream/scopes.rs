//! Which scopes are asked for (MCP authorization § scope selection; § step-up).

use crate::identity::TokenList;

/// What asks for a refresh token (OpenID Connect Core §11).
pub const OFFLINE: &str = "offline_access";

/// Scopes that others list, as many as we keep; those that are none are left out.
pub fn keep<'a>(scopes: impl IntoIterator<Item = &'a str>) -> TokenList {
    let mut kept = Vec::new();
    for scope in scopes {
        let is_scope = || TokenList::parse(vec![scope.to_owned()]).is_ok();
        if kept.len() < TokenList::MAX_COUNT && !kept.iter().any(|known| known == scope) && is_scope() {
            kept.push(scope.to_owned());
        }
    }
    TokenList::parse(kept).unwrap_or_default()
}

/// Scopes in one text (RFC 6749 §3.3).
pub fn read(text: &str) -> TokenList {
    keep(text.split(' '))
}

/// Where the scopes to ask for come from, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// What the operator wants asked for, and nothing else but `more`.
    pub configured: Option<&'a TokenList>,
    /// What the upstream's challenge names.
    pub challenged: Option<&'a TokenList>,
    /// What the upstream's document lists.
    pub supported: Option<&'a TokenList>,
    /// Whether the authorization server offers [`OFFLINE`].
    pub offers_offline: bool,
}

impl Sources<'_> {
    /// What is asked for, with `more` in any case: what the upstream asks for besides, and what is there already. Nothing
    /// leaves it to the server.
    pub fn select(self, more: &[String]) -> TokenList {
        let usual = self.configured.or(self.challenged.filter(|list| !list.is_empty())).or(self.supported);
        let all = more.iter().chain(usual.into_iter().flat_map(|list| list.iter())).map(String::as_str);
        // Alone it would be all that is asked for.
        let wants_offline = self.configured.is_none() && self.offers_offline && all.clone().next().is_some();
        // First, so that it is not what a long list leaves out.
        keep(wants_offline.then_some(OFFLINE).into_iter().chain(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_those_of_the_challenge_then_those_of_the_document_then_none() {
        let lists = ["a b", "c", "d", ""].map(read);
        let [challenged, supported, configured, empty] = lists.each_ref().map(Some);
        let more = ["b".to_owned(), "e".to_owned()];
        for (sources, more, expected) in [
            (Sources::default(), &[][..], ""),
            (Sources { offers_offline: true, ..Sources::default() }, &[], ""),
            (Sources { challenged, supported, ..Sources::default() }, &[], "a b"),
            (Sources { challenged: empty, supported, ..Sources::default() }, &[], "c"),
            (Sources { supported, offers_offline: true, ..Sources::default() }, &[], "offline_access c"),
            (Sources { configured, challenged, supported, offers_offline: true }, &[], "d"),
            (Sources { configured: empty, challenged, supported, offers_offline: true }, &[], ""),
            // U9
            (Sources { challenged, supported, ..Sources::default() }, &more, "b e a"),
            (Sources { configured, offers_offline: true, ..Sources::default() }, &more, "b e d"),
        ] {
            assert_eq!(sources.select(more).join(" "), expected, "{sources:?}");
        }
    }

    #[test]
    fn lists_of_strangers_are_cut_and_cleaned() {
        let many: Vec<String> = (0..100).map(|number| format!("s{number}")).collect();
        assert_eq!(keep(many.iter().map(String::as_str)).len(), TokenList::MAX_COUNT);
        assert_eq!(read("  a \"b\" a c\td e\\ \u{e4} f").join(" "), "a f");
        assert!(read(&"x".repeat(TokenList::MAX_LEN + 1)).is_empty());
    }
}

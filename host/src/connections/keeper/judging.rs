//! Whether a credential is what somebody wants. Pure: three values in, a verdict out.

use std::sync::Arc;
use std::time::Duration;

use super::kept::{Of, Opened};
use crate::connection::Reason;
use crate::connection::lending::{Kind, Lack, Lent, Wanted, Withheld};
use crate::env::Timestamp;
use crate::store::connections::Trouble;

/// An access token that ends within this is renewed before it is lent, or within a quarter of its life if that is less.
const MARGIN: Duration = Duration::from_secs(30);

/// What is to become of a wish.
#[derive(Debug)]
pub(super) enum Verdict {
    Lend(Arc<Lent>),
    /// It is to be renewed first. If that cannot be done now, this one works still.
    Renew {
        otherwise: Option<Arc<Lent>>,
    },
    Withhold(Withheld),
    /// Its person has something to do, and lists are to show that.
    Mark(Trouble, Lack),
}

/// Judges a credential that was opened. One that was made for another origin is not renewed, marked or looked at further: it
/// is good again should the upstream come back.
pub(super) fn judge(opened: &Opened, wanted: &Wanted, now: Timestamp) -> Verdict {
    let is_moved = opened.origin.as_ref().is_some_and(|made_for| *made_for != wanted.origin);
    match (&opened.of, &wanted.kind) {
        (Of::OAuth { .. }, Kind::OAuth) | (Of::Headers { .. }, Kind::Headers(_) | Kind::Variables(_)) if is_moved => {
            Verdict::Withhold(Withheld::Missing(Lack::NeedsReauth(Reason::Moved)))
        }
        (Of::OAuth { .. }, Kind::OAuth | Kind::Exchanged) => token(opened, wanted, now),
        (Of::Headers { told }, Kind::Headers(declared)) if opened.lent.variables.is_empty() => {
            values(opened, (declared, told), wanted, now)
        }
        (Of::Headers { told }, Kind::Variables(declared)) if opened.lent.headers.is_empty() => {
            values(opened, (declared, told), wanted, now)
        }
        // The upstream was configured anew: what its holder has is for something else.
        _ => Verdict::Withhold(Withheld::Missing(Lack::NotConnected)),
    }
}

fn token(opened: &Opened, wanted: &Wanted, now: Timestamp) -> Verdict {
    let Of::OAuth { issuer: _, scopes, expires, is_renewable } = &opened.of else {
        return Verdict::Withhold(Withheld::Missing(Lack::NotConnected));
    };
    if let Some(allowed) = &wanted.scopes
        && scopes.iter().any(|scope| !allowed.contains(scope))
    {
        return Verdict::Withhold(Withheld::TooWide);
    }
    let is_too_old = is_too_old(opened, wanted, now);
    let is_over = expires.is_some_and(|expires| expires <= now);
    let is_ending = expires.is_some_and(|expires| expires <= now.after(margin(opened.stored, expires)));
    match (is_too_old || is_ending, is_renewable) {
        (false, _) => Verdict::Lend(opened.lent.clone()),
        (true, true) => Verdict::Renew { otherwise: (!is_over && !is_too_old).then(|| opened.lent.clone()) },
        (true, false) if is_over => Verdict::Mark(Trouble::Reauth(Reason::Expired), Lack::NeedsReauth(Reason::Expired)),
        (true, false) if is_too_old => Verdict::Withhold(Withheld::Missing(Lack::TooOld)),
        (true, false) => Verdict::Lend(opened.lent.clone()),
    }
}

/// How long before its end a token is renewed: short-lived ones are used as well.
fn margin(stored: Timestamp, expires: Timestamp) -> Duration {
    let life = expires.as_millis().saturating_sub(stored.as_millis());
    MARGIN.min(Duration::from_millis(life / 4))
}

fn is_too_old(opened: &Opened, wanted: &Wanted, now: Timestamp) -> bool {
    wanted.max_age.is_some_and(|max_age| opened.stored.after(max_age) < now)
}

/// Of headers, or of variables.
fn values(opened: &Opened, (declared, told): (&[String], &[String]), wanted: &Wanted, now: Timestamp) -> Verdict {
    let lent = &opened.lent;
    let names = || {
        let headers = lent.headers.iter().map(|(name, _)| name.as_str());
        headers.chain(lent.variables.iter().map(|(name, _)| name.as_str()))
    };
    let has = |name: &String| names().any(|stored| stored == name);
    let missing: Vec<String> = declared.iter().filter(|name| !has(name)).cloned().collect();
    if !missing.is_empty() && missing == told {
        return Verdict::Withhold(Withheld::Missing(Lack::NeedsUpdate(missing)));
    }
    if !missing.is_empty() {
        return Verdict::Mark(Trouble::Update(missing.clone()), Lack::NeedsUpdate(missing));
    }
    if is_too_old(opened, wanted, now) {
        return Verdict::Withhold(Withheld::Missing(Lack::TooOld));
    }
    let is_declared = |name: &str| declared.iter().any(|declared| declared == name);
    if names().all(is_declared) {
        return Verdict::Lend(lent.clone());
    }
    // What is not declared any more goes nowhere.
    let headers = lent.headers.iter().filter(|(name, _)| is_declared(name.as_str())).cloned().collect();
    let variables = lent.variables.iter().filter(|(name, _)| is_declared(name)).cloned().collect();
    Verdict::Lend(Arc::new(Lent { headers, variables, ..Lent::clone(lent) }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::kept::{header_name, sensitive};
    use super::*;
    use crate::connection::{Holder, Origin, Place};
    use crate::identity::TokenList;
    use crate::ids::{ConnectionId, UpstreamName};

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    fn place() -> Place {
        Place { holder: Holder::Shared, upstream: UpstreamName::parse("notes").unwrap() }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn opened(of: Of, names: &[&str], stored: Timestamp) -> Opened {
        let header = |name: &&str| (header_name(name).unwrap(), sensitive(&["v"]).unwrap());
        let headers = names.iter().map(header).collect();
        let connection = ConnectionId::parse(&"0a".repeat(12)).unwrap();
        Opened {
            lent: Arc::new(Lent {
                place: place(),
                connection,
                revision: 1,
                given: 1,
                scopes: Vec::new(),
                headers,
                variables: Vec::new(),
            }),
            of,
            origin: Some(origin("https://notes.example/mcp")),
            stored,
        }
    }

    fn origin(url: &str) -> Origin {
        Origin::of_url(&url.parse().unwrap())
    }

    /// A token of an hour that ends so many seconds from now, and before now if that is negative.
    fn token_until(seconds: i64, is_renewable: bool) -> Opened {
        let expires = Timestamp::from_millis(NOW.as_millis().saturating_add_signed(seconds * 1_000));
        let scopes = TokenList::parse(words(&["read", "write"])).unwrap();
        let of = Of::OAuth { issuer: "https://id.example".to_owned(), scopes, expires: Some(expires), is_renewable };
        opened(of, &["authorization"], expires.before(Duration::from_secs(3_600)))
    }

    fn given() -> Of {
        Of::Headers { told: Vec::new() }
    }

    fn wanted(kind: Kind) -> Wanted {
        Wanted { place: place(), kind, origin: origin("https://notes.example"), scopes: None, max_age: None }
    }

    fn verdict(opened: &Opened, wanted: &Wanted) -> String {
        match judge(opened, wanted, NOW) {
            Verdict::Lend(lent) => {
                let names: Vec<_> = lent.headers.iter().map(|(name, _)| name.as_str()).collect();
                format!("lend {}", names.join(" "))
            }
            Verdict::Renew { otherwise: Some(_) } => "renew or lend".to_owned(),
            Verdict::Renew { otherwise: None } => "renew".to_owned(),
            Verdict::Withhold(withheld) => format!("{withheld:?}"),
            Verdict::Mark(_, lack) => format!("mark {lack:?}"),
        }
    }

    #[test]
    fn a_token_is_renewed_before_it_ends_and_used_to_its_end() {
        for (seconds, is_renewable, expected) in [
            (3_000, true, "lend authorization"),
            (31, true, "lend authorization"),
            (30, true, "renew or lend"),
            (1, true, "renew or lend"),
            (0, true, "renew"),
            (-900, true, "renew"),
            (31, false, "lend authorization"),
            (1, false, "lend authorization"),
            (0, false, "mark NeedsReauth(Expired)"),
        ] {
            let token = token_until(seconds, is_renewable);
            assert_eq!(verdict(&token, &wanted(Kind::OAuth)), expected, "{seconds} s, {is_renewable}");
        }
    }

    #[test]
    fn a_token_that_lives_shortly_is_used_too() {
        let scopes = TokenList::default();
        let of = |expires: u64| Of::OAuth {
            issuer: String::new(),
            scopes: scopes.clone(),
            expires: Some(NOW.after(Duration::from_secs(expires))),
            is_renewable: true,
        };
        assert_eq!(verdict(&opened(of(20), &["authorization"], NOW), &wanted(Kind::OAuth)), "lend authorization");
        let stored = NOW.before(Duration::from_secs(16));
        assert_eq!(verdict(&opened(of(4), &["authorization"], stored), &wanted(Kind::OAuth)), "renew or lend");
    }

    #[test]
    fn a_token_without_an_end_is_used_until_it_is_refused() {
        let of = Of::OAuth { issuer: String::new(), scopes: TokenList::default(), expires: None, is_renewable: true };
        let token = opened(of, &["authorization"], Timestamp::default());
        assert_eq!(verdict(&token, &wanted(Kind::OAuth)), "lend authorization");
    }

    #[test]
    fn a_token_with_more_scopes_than_policies_let_out_stays() {
        let token = token_until(3_000, true);
        for (allowed, expected) in [
            (&["read", "write", "more"][..], "lend authorization"),
            (&["write", "read"], "lend authorization"),
            (&["read"], "TooWide"),
            (&[], "TooWide"),
        ] {
            let wanted = Wanted { scopes: Some(words(allowed)), ..wanted(Kind::OAuth) };
            assert_eq!(verdict(&token, &wanted), expected, "{allowed:?}");
        }
    }

    #[test]
    fn what_is_too_old_is_renewed_or_not_lent() {
        // Both were stored ten minutes ago.
        let (renewable, other) = (token_until(3_000, true), token_until(3_000, false));
        let key = opened(given(), &["x-api-key"], NOW.before(Duration::from_secs(600)));
        for (seconds, of_renewable, of_other, of_key) in [
            (600, "lend authorization", "lend authorization", "lend x-api-key"),
            (599, "renew", "Missing(TooOld)", "Missing(TooOld)"),
            (0, "renew", "Missing(TooOld)", "Missing(TooOld)"),
        ] {
            let aged = |kind| Wanted { max_age: Some(Duration::from_secs(seconds)), ..wanted(kind) };
            assert_eq!(verdict(&renewable, &aged(Kind::OAuth)), of_renewable);
            assert_eq!(verdict(&other, &aged(Kind::OAuth)), of_other);
            assert_eq!(verdict(&key, &aged(Kind::Headers(words(&["x-api-key"])))), of_key);
        }
    }

    #[test]
    fn what_was_made_for_another_origin_goes_nowhere_whatever_else_is_true() {
        for (url, is_lent) in [
            ("https://notes.example/other/path", true),
            ("https://notes.example:8443/mcp", false),
            ("http://notes.example/mcp", false),
            ("https://evil.example/mcp", false),
        ] {
            let key = opened(given(), &["x-api-key"], NOW);
            for (opened, kind) in [
                (token_until(3_000, true), Kind::OAuth),
                (token_until(-900, true), Kind::OAuth),
                (token_until(-900, false), Kind::OAuth),
                (key, Kind::Headers(words(&["x-api-key", "x-team"]))),
            ] {
                let here = wanted(kind);
                let said = verdict(&opened, &Wanted { origin: origin(url), ..here.clone() });
                let expected = if is_lent { verdict(&opened, &here) } else { "Missing(NeedsReauth(Moved))".to_owned() };
                assert_eq!(said, expected, "{url}");
                // Of an earlier version, which did not keep it.
                let old = Opened { origin: None, ..opened };
                assert_eq!(verdict(&old, &Wanted { origin: origin(url), ..here.clone() }), verdict(&old, &here));
            }
        }
        let program = Wanted { origin: Origin::of_program(), ..wanted(Kind::OAuth) };
        assert_eq!(verdict(&token_until(3_000, true), &program), "Missing(NeedsReauth(Moved))");
    }

    #[test]
    fn another_kind_of_credential_is_none() {
        let missing = "Missing(NotConnected)";
        assert_eq!(verdict(&token_until(3_000, true), &wanted(Kind::Headers(words(&["authorization"])))), missing);
        assert_eq!(verdict(&opened(given(), &["authorization"], NOW), &wanted(Kind::OAuth)), missing);
    }

    #[test]
    fn variables_are_of_a_kind_of_their_own() {
        let lent = opened(given(), &[], NOW);
        let variables = ["API_KEY", "LEFT"].map(|name| (name.to_owned(), crate::secret::Plaintext::new("v"))).to_vec();
        let opened = Opened { lent: Arc::new(Lent { variables, ..Lent::clone(&lent.lent) }), ..lent };
        let wanted = |names: &[&str]| wanted(Kind::Variables(words(names)));
        let Verdict::Lend(lent) = judge(&opened, &wanted(&["API_KEY"]), NOW) else { panic!("it is lent") };
        assert!(lent.headers.is_empty() && lent.variables.len() == 1 && lent.variables[0].0 == "API_KEY");
        assert_eq!(verdict(&opened, &wanted(&["API_KEY", "MORE"])), "mark NeedsUpdate([\"MORE\"])");
        let other = Wanted { kind: Kind::Headers(words(&["api_key"])), ..wanted(&[]) };
        assert_eq!(verdict(&opened, &other), "Missing(NotConnected)");
    }

    #[test]
    fn what_lists_show_already_is_not_marked_again() {
        let opened = opened(Of::Headers { told: words(&["x-team"]) }, &["x-api-key"], NOW);
        for (declared, expected) in [
            (&["x-api-key", "x-team"][..], "Missing(NeedsUpdate([\"x-team\"]))"),
            (&["x-api-key", "x-user"], "mark NeedsUpdate([\"x-user\"])"),
            (&["x-api-key"], "lend x-api-key"),
        ] {
            assert_eq!(verdict(&opened, &wanted(Kind::Headers(words(declared)))), expected);
        }
    }

    proptest! {
        #[test]
        fn headers_that_are_declared_are_sent_and_no_others(stored in 0_u8..32, declared in 0_u8..32) {
            let names = |bits: u8| (0..5).filter(|bit| bits & (1 << bit) != 0).map(|bit| format!("x-{bit}")).collect();
            let (stored, declared): (Vec<String>, Vec<String>) = (names(stored), names(declared));
            let names: Vec<&str> = stored.iter().map(String::as_str).collect();
            let opened = opened(given(), &names, NOW);
            let missing: Vec<String> = declared.iter().filter(|name| !stored.contains(name)).cloned().collect();
            match judge(&opened, &wanted(Kind::Headers(declared.clone())), NOW) {
                Verdict::Lend(lent) => {
                    let sent: Vec<_> = lent.headers.iter().map(|(name, _)| name.as_str().to_owned()).collect();
                    prop_assert_eq!((sent, missing), (declared, Vec::new()));
                }
                Verdict::Mark(Trouble::Update(told), Lack::NeedsUpdate(lacking)) => {
                    prop_assert_eq!((&told, &lacking), (&missing, &missing));
                    prop_assert!(!missing.is_empty());
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

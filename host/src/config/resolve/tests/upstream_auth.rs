//! `[upstreams.NAME.auth]`, `[upstreams.NAME.tls]`, and who may use an upstream.

use super::*;
use crate::certificate::testing::{AUTHORITY, OTHER_CHAIN as CLIENT, OTHER_KEY as CLIENT_KEY};
use crate::config::{ClientCredentials, OAuthClient, SubjectOf, TokenExchange, VouchedClaim};
use crate::identity::user::Login;

/// An upstream with this `auth`, which begins in line 4.
fn with(auth: &str) -> String {
    format!("[upstreams.notes]\nurl = 'https://x'\n[upstreams.notes.auth]\n{auth}")
}

fn auth_of(text: &str) -> UpstreamAuth {
    let config = parsed(text).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"));
    config.upstreams[0].auth.clone()
}

#[test]
fn an_upstream_is_shown_the_credential_that_the_file_says() {
    assert_eq!(auth_of("[upstreams.notes]\nurl = 'http://x'"), UpstreamAuth::None);
    assert_eq!(auth_of(&with("kind = 'none'")), UpstreamAuth::None);
    let fixed = "[upstreams.notes]\nurl = 'http://x'\nauth.kind = 'static-headers'\nheaders = { x-team = 'a' }";
    assert_eq!(auth_of(fixed), UpstreamAuth::None);
    let nothing = || Box::new(OAuthClient::default());
    assert_eq!(auth_of(&with("kind = 'per-user-oauth'")), UpstreamAuth::PerUserOAuth(nothing()));
    assert_eq!(auth_of(&with("kind = 'shared-oauth'")), UpstreamAuth::SharedOAuth(nothing()));
    let whole = "kind = 'per-user-oauth'\nissuer = 'https://id.example/a'\nclient_id = 'gateway'\nclient_secret = 'env:TOKEN'\nscopes = ['read', 'write']";
    let secret = environment("TOKEN").map(Plaintext::new);
    let expected = OAuthClient {
        issuer: Some("https://id.example/a".to_owned()),
        client: Some(ClientCredentials { id: "gateway".to_owned(), secret }),
        scopes: Some(TokenList::parse(vec!["read".to_owned(), "write".to_owned()]).unwrap()),
    };
    assert_eq!(auth_of(&with(whole)), UpstreamAuth::PerUserOAuth(Box::new(expected)));
    for issuer in ["http://127.0.0.1:9000", "http://localhost/x", "http://[::1]:1"] {
        auth_of(&with(&format!("kind = 'shared-oauth'\nissuer = '{issuer}'")));
    }
    let names = vec!["x-api-key".to_owned(), "authorization".to_owned()];
    let headers = with("kind = 'per-user-headers'\nheaders = [' X-Api-Key', 'Authorization']");
    assert_eq!(auth_of(&headers), UpstreamAuth::PerUserHeaders(names));
}

#[test]
fn u11_mistakes_of_auth() {
    let headers = |list: &str| with(&format!("kind = 'per-user-headers'\nheaders = {list}"));
    let fixed = "[upstreams.notes]\nurl = 'http://x'\nheaders = { X-Team = 'a', Authorization = 'Bearer env:TOKEN' }\n[upstreams.notes.auth]\n";
    each_mistake_is_told(&[
        (&with("kind = 'both'"), &["4: kind must be one of none, static-headers, shared-oauth, per-user-oauth"]),
        (&with("issuer = 'https://x'"), &["4: auth.issuer has no meaning with auth.kind \"none\""]),
        (&with("kind = 'shared-oauth'\nheaders = ['a']"), &["5: auth.headers has no meaning with auth.kind \"shared"]),
        (&with("kind = 'per-user-headers'\nheaders = ['a']\nscopes = []"), &["6: auth.scopes has no meaning"]),
        (&with("kind = 'static-headers'"), &["4: auth.kind \"static-headers\" needs headers"]),
        (
            &with("kind = 'per-user-oauth'\nclient_secret = 'env:TOKEN'"),
            &["5: auth.client_secret needs auth.client_id"],
        ),
        (
            &with("kind = 'per-user-oauth'\nclient_id = 'a'\nclient_secret = 'hunter2'"),
            &["6: auth.client_secret must be a reference"],
        ),
        (&with("kind = 'per-user-oauth'\nissuer = 'http://id.example'"), &["5: auth.issuer must be an https URL"]),
        (
            &with("kind = 'per-user-oauth'\nissuer = 'http://127.0.0.1.example'"),
            &["5: auth.issuer must be an https URL"],
        ),
        (&with("kind = 'per-user-oauth'\nissuer = 'https://x?a'"), &["5: auth.issuer is not an issuer"]),
        (&with("kind = 'per-user-oauth'\nscopes = ['a', 'a']"), &["5: an entry of auth.scopes is there twice"]),
        (&with("kind = 'per-user-headers'"), &["4: auth.kind \"per-user-headers\" needs auth.headers"]),
        (&headers("[]"), &["5: auth.kind \"per-user-headers\" needs auth.headers"]),
        (&headers("['a', 'A ']"), &["5: auth.headers \"A \" is there twice"]),
        (&headers("['Host']"), &["5: auth.headers \"Host\" is set by the gateway itself"]),
        (
            &headers("['x_forwarded_for', 'a b']"),
            &["5: auth.headers \"x_forwarded_for\" is set by", "5: auth.headers \"a b\" is not a header name"],
        ),
        (
            &format!("{fixed}kind = 'per-user-headers'\nheaders = ['x-team']"),
            &["6: auth.headers \"x-team\" is among the upstream's headers already"],
        ),
        (&format!("{fixed}kind = 'shared-oauth'"), &["3: the header \"authorization\" is sent by auth already"]),
        (
            "[upstreams.notes]\ncommand = ['x']\n[upstreams.notes.auth]\nkind = 'per-user-headers'\nheaders = ['a']",
            &["4: auth.kind \"per-user-headers\" does not go with a program"],
        ),
    ]);
    let many: Vec<String> = (0..33).map(|number| format!("'h{number}'")).collect();
    each_mistake_is_told(&[(
        &headers(&format!("[{}]", many.join(", "))),
        &["5: auth.headers must not be more than 32"],
    )]);
}

#[test]
fn an_upstream_has_tls_of_its_own_and_insecure_has_to_be_meant() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("ca.pem", AUTHORITY), ("client.pem", CLIENT), ("client.key", CLIENT_KEY)] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let parsed = |tls: &str| {
        let text = format!("[upstreams.notes]\nurl = 'https://x'\n[upstreams.notes.tls]\n{tls}");
        parse(&text, dir.path(), &environment, NOW)
    };
    let made = |tls: &str| parsed(tls).unwrap_or_else(|mistakes| panic!("{mistakes}")).upstreams[0].tls.clone();
    let whole = "ca_file = 'ca.pem'\nclient_certificate = 'client.pem'\nclient_key = 'file:client.key'";
    assert!(made(whole).is_some_and(|tls| !tls.takes_any()) && made(whole) == made(whole));
    assert!(made(whole) != made("ca_file = 'ca.pem'"));
    assert!(made("insecure = true\ninsecure_confirmed = true").is_some_and(|tls| tls.takes_any()));
    for (text, expected) in [
        ("insecure = true", "tls.insecure = true lets whoever stands in between read and change everything"),
        ("insecure_confirmed = true", "tls.insecure_confirmed has no meaning without"),
        ("insecure = true\ninsecure_confirmed = true\nca_file = 'ca.pem'", "tls.ca_file has no meaning"),
        ("ca_file = 'none.pem'", "tls.ca_file does not exist"),
        ("ca_file = 'client.key'", "tls: there is no certificate authority in the file"),
        ("client_certificate = 'client.pem'", "tls: a certificate needs its private key"),
        ("client_key = 'file:client.key'", "tls: a private key needs its certificate"),
        ("client_key = 'hunter2'", "tls.client_key must be a reference"),
    ] {
        let mistakes = parsed(text).unwrap_err();
        let told: Vec<&str> = mistakes.iter().map(|mistake| &*mistake.message).collect();
        assert!(told.len() == 1 && told[0].starts_with(expected), "{text}: {told:?}");
        assert!(
            mistakes.iter().all(|mistake| mistake.line.is_some_and(|line| line >= 3))
                && !mistakes.to_string().contains("hunter")
        );
    }
    each_mistake_is_told(&[
        (
            "[upstreams.notes]\nurl = 'http://x'\n[upstreams.notes.tls]\n",
            &["3: tls has no meaning where the url is not https"],
        ),
        (
            "[upstreams.notes]\ncommand = ['x']\n[upstreams.notes.tls]\n",
            &["3: tls has no meaning with the transport stdio"],
        ),
    ]);
}

#[test]
fn who_may_use_an_upstream_is_told_by_lists_groups_owners_and_the_upstream() {
    let text = "[upstreams.notes]\nurl = 'http://x'\nallow_on_all_keys = true\n[upstreams.tracker]\nurl = 'http://x'\n\
        [auth.allow]\nusers = []\n[auth.allow.groups]\nops = ['notes', 't*']\nnobody = []\n\
        [keys.ci]\nsha256 = 'abababababababababababababababababababababababababababababababab'\nowner = ' Ada'";
    let config = parsed(text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.upstreams.iter().map(|upstream| upstream.allow_on_all_keys).collect::<Vec<_>>(), [true, false]);
    assert_eq!(config.keys[0].owner, Login::parse("ada"));
    let allow = &config.auth.allow;
    assert_eq!(*allow.users, AllowList::default());
    let entry = |upstream: &str| AllowEntry { upstream: Glob::parse(upstream).unwrap(), tools: globs(&["*"]) };
    assert_eq!(allow.groups["ops"], AllowList(vec![entry("notes"), entry("t*")]));
    assert_eq!(allow.groups["nobody"], AllowList::default());
    each_mistake_is_told(&[
        ("[auth.allow.groups]\nops = ['*']", &["2: auth.allow.groups has no meaning without auth.allow.users"]),
        (
            "[auth.allow]\nusers = []\n[auth.allow.groups]\nops = ['notes']",
            &["4: auth.allow.groups.ops names the upstream \"notes\", which is not declared"],
        ),
        ("[auth.allow]\nusers = []\n[auth.allow.groups]\n'a b' = ['*']", &["4: group \"a b\" must be"]),
        (
            "[keys.ci]\nowner = 'a b'\nsha256 = 'abababababababababababababababababababababababababababababababab'",
            &["2: owner is no login"],
        ),
        ("[store]\norphan_retention = '0s'", &["2: store.orphan_retention must not be zero"]),
        ("[store]\norphan_retention = '-1d'", &["2: store.orphan_retention must not be negative"]),
    ]);
}

#[test]
fn u11_headers_of_callers_are_let_through_by_name_and_never_in_the_place_of_what_is_sent_already() {
    let with = |names: &str| {
        format!("[upstreams.notes]\nurl = 'https://x'\nheaders = {{ X-Team = 'a' }}\nallowed_extra_headers = {names}")
    };
    let config = parsed(&with("['X-Tenant', 'x-trace']")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.upstreams[0].extra_headers, ["x-tenant", "x-trace"]);
    let many = format!("{:?}", (0..17).map(|number| format!("x-{number}")).collect::<Vec<_>>());
    for (text, expected) in [
        (with("['Authorization']"), "4: allowed_extra_headers \"Authorization\" is never passed on"),
        (with("['x_real-ip']"), "4: allowed_extra_headers \"x_real-ip\" is never passed on"),
        (with("['a b']"), "4: allowed_extra_headers \"a b\" is not a header name"),
        (with("['x-a', 'X_A']"), "4: allowed_extra_headers \"X_A\" is there twice"),
        (with("['x_team']"), "4: allowed_extra_headers \"x_team\" is sent by the gateway already"),
        (with(&many), "4: allowed_extra_headers must not be more than 16"),
        (
            "[upstreams.notes]\nurl = 'https://x'\nallowed_extra_headers = ['x-key']\n\
             auth = { kind = 'per-user-headers', headers = ['X-Key'] }"
                .to_owned(),
            "3: allowed_extra_headers \"x-key\" is sent by the gateway already",
        ),
        (
            "[upstreams.notes]\ncommand = ['x']\nallowed_extra_headers = ['x-a']".to_owned(),
            "3: allowed_extra_headers has no meaning with the transport stdio",
        ),
    ] {
        each_mistake_is_told(&[(&text, &[expected])]);
    }
}

#[test]
fn people_give_a_program_values_for_variables_that_change_nothing_else() {
    let with = |auth: &str| {
        format!("[upstreams.notes]\ncommand = ['x']\nenvironment = {{ LEVEL = 'a' }}\n[upstreams.notes.auth]\n{auth}")
    };
    let kind = "kind = 'per-user-environment'\n";
    let names = ["API_KEY", "WORKSPACE"].map(str::to_owned).to_vec();
    let expected = |max_programs| UpstreamAuth::PerUserEnvironment { names: names.clone(), max_programs };
    let list = "environment = ['API_KEY', 'WORKSPACE']";
    assert_eq!(auth_of(&with(&format!("{kind}{list}"))), expected(16));
    assert_eq!(auth_of(&with(&format!("{kind}{list}\nmax_programs = 2"))), expected(2));
    let of = |list: &str| with(&format!("{kind}environment = {list}"));
    each_mistake_is_told(&[
        (&with(kind), &["5: auth.kind \"per-user-environment\" needs auth.environment"]),
        (&of("[]"), &["6: auth.kind \"per-user-environment\" needs auth.environment"]),
        (&of("['LD_PRELOAD']"), &["6: auth.environment \"LD_PRELOAD\" changes how programs are run"]),
        (&of("['api_key']"), &["6: auth.environment \"api_key\" is not written in A-Z"]),
        (&of("['A', 'A']"), &["6: auth.environment \"A\" is there twice"]),
        (&of("['LEVEL']"), &["6: auth.environment \"LEVEL\" is among the upstream's environment already"]),
        (&with(&format!("{kind}{list}\nmax_programs = 0")), &["7: auth.max_programs must be from 1 to 1024"]),
        (&with(&format!("{kind}{list}\nheaders = ['a']")), &["7: auth.headers has no meaning with auth.kind"]),
        (&with("environment = ['A']"), &["5: auth.environment has no meaning with auth.kind \"none\""]),
        (
            "[upstreams.notes]\nurl = 'https://x'\n[upstreams.notes.auth]\nkind = 'per-user-environment'\nenvironment = ['A']",
            &["4: auth.kind \"per-user-environment\" does not go with a url"],
        ),
    ]);
}

#[test]
fn the_gateway_vouches_for_people_as_a_client_that_was_registered() {
    let least =
        "kind = 'token-exchange'\nissuer = 'https://id.example'\nclient_id = 'gateway'\nclient_secret = 'env:TOKEN'";
    let secret = environment("TOKEN").map(Plaintext::new);
    let client = ClientCredentials { id: "gateway".to_owned(), secret };
    let issuer = Some("https://id.example".to_owned());
    let client = OAuthClient { issuer, client: Some(client), scopes: None };
    let expected = TokenExchange { client, audience: None, resource: None, subject: SubjectOf::Id, claims: Vec::new() };
    assert_eq!(auth_of(&with(least)), UpstreamAuth::TokenExchange(Box::new(expected.clone())));
    let whole = "\naudience = 'mail'\nresource = 'https://mail.example/mcp'\nsubject = 'provider'\nclaims = ['email', 'groups']";
    let all = TokenExchange {
        audience: Some("mail".to_owned()),
        resource: Some("https://mail.example/mcp".to_owned()),
        subject: SubjectOf::Provider,
        claims: vec![VouchedClaim::Email, VouchedClaim::Groups],
        ..expected
    };
    assert_eq!(auth_of(&with(&format!("{least}{whole}"))), UpstreamAuth::TokenExchange(Box::new(all)));
    let keys = format!("[auth]\nmcp = 'keys'\n{}", with(least));
    each_mistake_is_told(&[
        (
            &with("kind = 'token-exchange'"),
            &[
                "4: auth.kind \"token-exchange\" needs auth.issuer",
                "4: auth.kind \"token-exchange\" needs auth.client_id",
                "4: auth.kind \"token-exchange\" needs auth.client_secret",
            ],
        ),
        (&with(&format!("{least}\nresource = 'mail'")), &["8: auth.resource "]),
        (&with(&format!("{least}\nsubject = 'name'")), &["8: subject must be one of id, login, email, provider"]),
        (&with(&format!("{least}\nheaders = ['a']")), &["8: auth.headers has no meaning with auth.kind"]),
        (&with("kind = 'per-user-oauth'\naudience = 'a'"), &["5: auth.audience has no meaning with auth.kind"]),
        (&keys, &["6: auth.kind \"token-exchange\" does not go with auth.mcp"]),
        (
            &format!("[upstreams.notes]\ncommand = ['x']\n[upstreams.notes.auth]\n{least}"),
            &["4: auth.kind \"token-exchange\" does not go with a program"],
        ),
    ]);
}

//! The form of a client: a new one, and one that is changed. What is left empty is taken away.

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{ClientView, HERE, after};
use crate::authorization::clients::operators::Change;
use crate::http::api::{Problem, clients};
use crate::http::console::Person;
use crate::http::console::desk::{Answer, Desk, Done, Head, Sent, Stop};
use crate::http::console::fields::{Choice, Paths, can_be_mended, choices, given, seen, words};
use crate::http::oauth::csrf::Fields;
use crate::http::oauth::pages::{Site, page_of_console};
use crate::oauth::client::{GrantType, Metadata};
use crate::oauth::grant::OnReuse;

const METHODS: [(&str, &str); 4] = [
    ("none", "It does not: a public client"),
    ("client_secret_basic", "Secret, in a header"),
    ("client_secret_post", "Secret, in the form"),
    ("private_key_jwt", "Key of its own"),
];
const REUSE: [(&str, &str); 2] =
    [("revoke-family", "Revoke the grant"), ("reject", "Refuse it, and let the grant live on")];

/// Members that are one text.
const TEXTS: [(&str, &str); 7] = [
    ("client_uri", "Its page"),
    ("logo_uri", "Its logo"),
    ("tos_uri", "Its terms of service"),
    ("policy_uri", "Its privacy policy"),
    ("software_id", "Software id"),
    ("software_version", "Software version"),
    ("jwks_uri", "Address of its public keys"),
];

/// One of [`TEXTS`], and what was typed.
struct Text {
    name: &'static str,
    label: &'static str,
    value: String,
}

/// A kind of grant that a client may use.
struct Kind {
    name: &'static str,
    is_chosen: bool,
}

/// What somebody has typed.
struct Typed {
    name: String,
    redirect_uris: String,
    kinds: Vec<&'static str>,
    method: String,
    scope: String,
    contacts: String,
    texts: Vec<Text>,
    jwks: String,
    requires_proof: bool,
    on_reuse: String,
}

impl Default for Typed {
    fn default() -> Self {
        Self::with(&mut |_: &str| String::new(), vec!["authorization_code", "refresh_token"])
    }
}

impl Typed {
    /// With what a member has; that of a list stands line by line.
    fn with(member: &mut impl FnMut(&str) -> String, kinds: Vec<&'static str>) -> Self {
        let mut text = |(name, label): (&'static str, &'static str)| Text { name, label, value: member(name) };
        let texts = TEXTS.into_iter().map(&mut text).collect();
        Self {
            name: member("client_name"),
            redirect_uris: member("redirect_uris"),
            kinds,
            method: member("token_endpoint_auth_method"),
            scope: member("scope"),
            contacts: member("contacts"),
            texts,
            jwks: member("jwks"),
            requires_proof: !member("dpop_bound_access_tokens").is_empty(),
            on_reuse: member("on_reuse"),
        }
    }

    fn read(fields: &mut Fields) -> Self {
        let is_chosen = |kind: &&'static str| !fields.take(&format!("grant-{kind}")).is_empty();
        let kinds = GrantType::ALL.map(GrantType::as_str).into_iter().filter(is_chosen).collect();
        Self::with(&mut |name: &str| fields.take(name), kinds)
    }

    fn of(client: &ClientView) -> Self {
        let chosen = client.texts("grant_types");
        let kinds = GrantType::ALL.map(GrantType::as_str).into_iter().filter(|kind| chosen.contains(kind)).collect();
        let mut member = |name: &str| match name {
            "redirect_uris" | "contacts" => client.texts(name).join("\n"),
            "jwks" => client.keys().unwrap_or_default(),
            "dpop_bound_access_tokens" if client.is(name) => "on".to_owned(),
            name => client.text(name).to_owned(),
        };
        Self::with(&mut member, kinds)
    }

    /// Whether anything is filled in of what is folded away.
    fn says_more(&self) -> bool {
        let folded = self.texts.iter().map(|text| &text.value).chain([&self.contacts, &self.jwks]);
        folded.into_iter().any(|text| given(text).is_some())
    }

    fn on_reuse(&self) -> OnReuse {
        if self.on_reuse == OnReuse::Reject.as_str() { OnReuse::Reject } else { OnReuse::RevokeFamily }
    }

    /// The members that it says, null where it says nothing.
    fn members(&self) -> Result<Map<String, Value>, Problem> {
        let text = |text: &str| given(text).map_or(Value::Null, Value::String);
        let list = |items: Vec<String>| if items.is_empty() { Value::Null } else { json!(items) };
        let keys = match given(&self.jwks) {
            None => Value::Null,
            Some(keys) => {
                serde_json::from_str(&keys).map_err(|error| Problem::invalid(format!("`jwks` is no JSON: {error}")))?
            }
        };
        let mut members = Map::new();
        let mut say = |name: &str, value: Value| _ = members.insert(name.to_owned(), value);
        say("client_name", text(&self.name));
        say("redirect_uris", list(words(&self.redirect_uris)));
        say("grant_types", list(self.kinds.iter().map(ToString::to_string).collect()));
        say("token_endpoint_auth_method", text(&self.method));
        say("scope", text(&self.scope));
        say("contacts", list(self.contacts.lines().filter_map(given).collect()));
        say("jwks", keys);
        say("dpop_bound_access_tokens", if self.requires_proof { json!(true) } else { Value::Null });
        for Text { name, label: _, value } in &self.texts {
            say(name, text(value));
        }
        Ok(members)
    }
}

#[derive(Template)]
#[template(path = "console/client_form.html")]
struct ClientForm<'a> {
    site: &'a Site,
    head: Head<'a>,
    problem: Option<&'a str>,
    title: &'a str,
    path: &'a str,
    back: &'a str,
    typed: &'a Typed,
    methods: Vec<Choice>,
    kinds: Vec<Kind>,
    reuse: Vec<Choice>,
    /// Of the client that is changed; a new one has none.
    revision: Option<u64>,
    max_name: usize,
}

/// Which client a form is about.
#[derive(Clone, Copy)]
enum About<'a> {
    New,
    /// The one at these paths, as it was in this revision.
    Known(&'a Paths, u64),
}

fn form((desk, person): (&Desk, &Person), about: About<'_>, typed: &Typed, refused: Option<&Problem>) -> Response {
    let path = match about {
        About::New => "/clients/new".to_owned(),
        About::Known(paths, _) => paths.to("change"),
    };
    let (title, back, revision) = match about {
        About::New => ("Add a client", HERE, None),
        About::Known(paths, revision) => ("Change a client", paths.own(), Some(revision)),
    };
    let kind = |name| Kind { name, is_chosen: typed.kinds.contains(&name) };
    let template = ClientForm {
        site: desk.site(),
        head: desk.head(person, HERE),
        problem: refused.map(|problem| problem.detail.as_str()),
        title,
        path: &path,
        back,
        typed,
        methods: choices(&METHODS, Some(&typed.method)),
        kinds: GrantType::ALL.map(GrantType::as_str).into_iter().map(kind).collect(),
        reuse: choices(&REUSE, Some(&typed.on_reuse)),
        revision,
        max_name: Metadata::MAX_NAME,
    };
    page_of_console(refused.map_or(StatusCode::OK, |problem| problem.status), template)
}

pub(super) async fn ask_new(State(desk): State<Desk>, Extension(person): Extension<Person>) -> Response {
    form((&desk, &person), About::New, &Typed::default(), None)
}

pub(super) async fn create(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Sent(mut fields): Sent,
) -> Answer {
    let typed = Typed::read(&mut fields);
    let made = match typed.members() {
        Ok(members) => clients::make(&desk.api, &person.operator(), members, typed.on_reuse()).await,
        Err(problem) => Err(problem),
    };
    match made {
        Ok((client, secret)) => Ok(after((&desk, &person), &client, secret.as_ref(), Done::Added)),
        Err(problem) if can_be_mended(&problem) => Ok(form((&desk, &person), About::New, &typed, Some(&problem))),
        Err(problem) => Err(Stop::Problem(problem)),
    }
}

pub(super) async fn ask_change(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let client = ClientView::of(&clients::one(&desk.api, &id).await?);
    let about = About::Known(&client.paths, client.revision.unwrap_or_default());
    Ok(form((&desk, &person), about, &Typed::of(&client), None))
}

pub(super) async fn change(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
    Sent(mut fields): Sent,
) -> Answer {
    let (revision, typed, paths) = (seen(&mut fields)?, Typed::read(&mut fields), Paths::of(HERE, &id));
    let changed = match typed.members() {
        Ok(members) => {
            let on_reuse = Some(typed.on_reuse());
            let change = Change { members, on_reuse, new_secret: false, seen: Some(vec![revision]) };
            clients::edit(&desk.api, &person.operator(), &id, change).await
        }
        Err(problem) => Err(problem),
    };
    match changed {
        Ok((client, secret)) => Ok(after((&desk, &person), &client, secret.as_ref(), Done::Changed)),
        Err(problem) if can_be_mended(&problem) => {
            Ok(form((&desk, &person), About::Known(&paths, revision), &typed, Some(&problem)))
        }
        Err(problem) => Err(Stop::Problem(problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_client_says_the_same_when_it_is_sent_back() {
        let told = json!({
            "client_id": "app", "client_name": "An app", "redirect_uris": ["https://a.example/1", "https://a.example/2"],
            "grant_types": ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
            "response_types": ["code"], "token_endpoint_auth_method": "private_key_jwt", "scope": "read write",
            "contacts": ["Ada <ada@a.example>"], "jwks": { "keys": [{ "kty": "EC" }] }, "dpop_bound_access_tokens": true,
            "policy_uri": "https://a.example/policy", "origin": "operator",
        });
        let members = Typed::of(&ClientView::told(told.clone())).members().unwrap();
        for (name, value) in &members {
            assert_eq!(*value, told.get(name).cloned().unwrap_or(Value::Null), "{name}");
        }
        assert!(members.get("logo_uri").is_some_and(Value::is_null), "what is empty is taken away");
        let broken = Typed { jwks: "{".to_owned(), ..Typed::default() };
        assert!(broken.members().is_err());
    }
}

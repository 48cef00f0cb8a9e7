//! The fields of the form for an upstream, and the definition that they stand for. Pure.
//!
//! A definition is what the API takes. What has no field here is said as JSON; where a definition says such a thing, it has
//! no fields at all ([`UpstreamFields::of`]), so that none is lost by being shown. Secrets that were typed are taken out
//! before anything is shown again ([`UpstreamFields::without_secrets`], [`hide`]); those that are kept meanwhile ([`Before`])
//! are put back into what comes then, if it leads to the same place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use crate::admin::upstreams::SEALED;
use crate::config::definition::{Misfit, Said, each_secret, said};

/// What stands where a secret was typed that is not kept, once the form is shown again, and where one that is.
pub(super) const AGAIN: &str = "(give it again)";
pub(super) const KEPT: &str = "(as you typed it)";
/// Members of a definition that have no say in where it leads.
const BESIDES: [&str; 6] = ["trust", "labels", "call_timeout", "sync_interval", "prefix", "allow_on_all_keys"];
/// The kind of upstream whose people give values for variables; all others give them for headers.
const WITH_VARIABLES: &str = "per-user-environment";

/// The kinds of credential, each with what it means in so few words that a narrow page shows all of them.
pub(super) const KINDS: [(&str, &str); 7] = [
    ("none", "only what stands above"),
    ("static-headers", "the headers above"),
    ("shared-oauth", "one for everybody"),
    ("per-user-oauth", "one for each"),
    ("per-user-headers", "values of each"),
    (WITH_VARIABLES, "values of each"),
    ("token-exchange", "the gateway vouches"),
];

/// Secrets that somebody has typed, by the settings that they are for.
pub(super) type Secrets = BTreeMap<String, String>;

/// The secrets of a form, and where they were to be shown. Elsewhere they have to be given again.
pub(super) struct Before {
    pub(super) place: String,
    pub(super) secrets: Secrets,
}

/// What somebody types, secrets among it. A list has one thing on a line.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct UpstreamFields {
    pub(super) url: String,
    /// `Name: value` on each line.
    pub(super) headers: String,
    /// The program, and each of its arguments, on a line of its own.
    pub(super) command: String,
    /// `NAME=value` on each line.
    pub(super) environment: String,
    pub(super) working_dir: String,
    /// A word of [`KINDS`].
    pub(super) kind: String,
    pub(super) issuer: String,
    pub(super) client_id: String,
    pub(super) client_secret: String,
    /// With spaces between them.
    pub(super) scopes: String,
    /// Names that people give values for, with spaces between them.
    pub(super) names: String,
    pub(super) trust: String,
    pub(super) labels: String,
    pub(super) call_timeout: String,
    pub(super) sync_interval: String,
    pub(super) bare: bool,
    pub(super) on_all_keys: bool,
}

impl fmt::Debug for UpstreamFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamFields").finish_non_exhaustive()
    }
}

impl UpstreamFields {
    /// The definition, or what is wrong with the lines.
    pub(super) fn definition(&self) -> Result<Map<String, Value>, Vec<Misfit>> {
        let mut definition = Map::new();
        let mut misfits = Vec::new();
        let mut table = |name: &str, text: &str, joint: char| match pairs(name, text, joint) {
            Ok(pairs) => (!pairs.is_empty()).then_some(Value::Object(pairs)),
            Err(misfit) => {
                misfits.push(misfit);
                None
            }
        };
        let members = [
            ("url", text(&self.url)),
            ("headers", table("headers", &self.headers, ':')),
            ("command", list(lines(&self.command))),
            ("environment", table("environment", &self.environment, '=')),
            ("working_dir", text(&self.working_dir)),
            ("auth", self.auth()),
            ("trust", text(&self.trust)),
            ("labels", list(lines(&self.labels))),
            ("call_timeout", text(&self.call_timeout)),
            ("sync_interval", text(&self.sync_interval)),
            ("prefix", self.bare.then_some(Value::Bool(false))),
            ("allow_on_all_keys", self.on_all_keys.then_some(Value::Bool(true))),
        ];
        definition.extend(said_of(members));
        if misfits.is_empty() { Ok(definition) } else { Err(misfits) }
    }

    fn auth(&self) -> Option<Value> {
        let of_program = self.kind == WITH_VARIABLES;
        let names = list(self.names.split_whitespace());
        let (headers, environment) = if of_program { (None, names) } else { (names, None) };
        let members = [
            ("kind", text(&self.kind).filter(|kind| kind != "none")),
            ("issuer", text(&self.issuer)),
            ("client_id", text(&self.client_id)),
            ("client_secret", text(&self.client_secret)),
            ("scopes", list(self.scopes.split_whitespace())),
            ("headers", headers),
            ("environment", environment),
        ];
        let auth: Map<String, Value> = said_of(members).collect();
        (!auth.is_empty()).then_some(Value::Object(auth))
    }

    /// The fields that stand for a definition. `None` where it says what no field says.
    pub(super) fn of(definition: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| string(definition.get(name));
        let auth = match definition.get("auth") {
            None => Map::new(),
            Some(auth) => auth.as_object()?.clone(),
        };
        let of_auth = |name: &str| string(auth.get(name));
        let kind = auth.get("kind").map_or("none", |kind| kind.as_str().unwrap_or_default()).to_owned();
        let names = if kind == WITH_VARIABLES { "environment" } else { "headers" };
        let fields = Self {
            url: text("url"),
            headers: joined(definition.get("headers"), ": "),
            command: strings(definition.get("command"), "\n"),
            environment: joined(definition.get("environment"), "="),
            working_dir: text("working_dir"),
            issuer: of_auth("issuer"),
            client_id: of_auth("client_id"),
            client_secret: of_auth("client_secret"),
            scopes: strings(auth.get("scopes"), " "),
            names: strings(auth.get(names), " "),
            kind,
            trust: text("trust"),
            labels: strings(definition.get("labels"), "\n"),
            call_timeout: text("call_timeout"),
            sync_interval: text("sync_interval"),
            bare: definition.get("prefix") == Some(&Value::Bool(false)),
            on_all_keys: definition.get("allow_on_all_keys") == Some(&Value::Bool(true)),
        };
        // What comes out is what went in, or there is something that the fields do not say.
        (fields.definition().ok()? == *definition).then_some(fields)
    }

    /// The same without the secrets that somebody has typed.
    pub(super) fn without_secrets(mut self, kept: &Secrets) -> Self {
        self.headers = hidden("headers", &self.headers, (':', ": "), kept);
        self.environment = hidden("environment", &self.environment, ('=', "="), kept);
        self.client_secret = shown("auth.client_secret", self.client_secret.trim(), kept).to_owned();
        self
    }

    /// The same with the secrets that are kept, where it says so.
    pub(super) fn with_secrets(mut self, kept: &Secrets) -> Self {
        self.headers = filled("headers", &self.headers, (':', ": "), kept);
        self.environment = filled("environment", &self.environment, ('=', "="), kept);
        if self.client_secret.trim() == KEPT
            && let Some(secret) = kept.get("auth.client_secret")
        {
            secret.clone_into(&mut self.client_secret);
        }
        self
    }

    /// The secrets that somebody has typed. Of one that is there twice nobody knows which is meant.
    pub(super) fn secrets(&self) -> Secrets {
        let table = |table: &'static str, text: &str, joint: char| -> Vec<(String, String)> {
            let pairs = text.lines().filter_map(|line| line.split_once(joint));
            pairs.map(|(name, value)| (format!("{table}.{}", name.trim()), value.trim().to_owned())).collect()
        };
        let client_secret = ("auth.client_secret".to_owned(), self.client_secret.trim().to_owned());
        let typed =
            table("headers", &self.headers, ':').into_iter().chain(table("environment", &self.environment, '='));
        let (mut secrets, mut twice) = (Secrets::new(), BTreeSet::new());
        for (field, text) in typed.chain([client_secret]).filter(|(field, text)| is_typed_secret(field, text)) {
            if secrets.insert(field.clone(), text).is_some() {
                twice.insert(field);
            }
        }
        secrets.retain(|field, _| !twice.contains(field));
        secrets
    }

    /// Where it leads, and what that place is to be.
    pub(super) fn place(&self) -> String {
        let Self { url, command, working_dir, kind, issuer, client_id, .. } = self;
        let parts = [url, command, working_dir, kind, issuer, client_id];
        format!("{:?}", parts.map(|text| lines(text).collect::<Vec<_>>()))
    }
}

/// What is wrong with a definition in which secrets are missing that were typed before.
pub(super) fn to_be_given_again(definition: &Map<String, Value>) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    each_secret(&mut definition.clone(), |field, value| {
        if value.as_str().is_some_and(is_mark) {
            misfits.push(Misfit::of(field, format!("{field} has to be given again: what was typed is not repeated")));
        }
    });
    misfits
}

/// The definition without the secrets that somebody has typed.
pub(super) fn hide(definition: &mut Map<String, Value>, kept: &Secrets) {
    each_secret(definition, |field, value| {
        *value = value.as_str().map_or(AGAIN, |text| shown(field, text, kept)).into();
    });
}

/// The definition with the secrets that are kept, where it says so.
pub(super) fn fill(definition: &mut Map<String, Value>, kept: &Secrets) {
    each_secret(definition, |field, value| {
        if value.as_str() == Some(KEPT)
            && let Some(secret) = kept.get(field)
        {
            *value = secret.as_str().into();
        }
    });
}

/// The secrets of a definition that somebody has typed.
pub(super) fn secrets_of(definition: &Map<String, Value>) -> Secrets {
    let mut secrets = Secrets::new();
    each_secret(&mut definition.clone(), |field, value| {
        if let Some(text) = value.as_str().filter(|text| is_typed_secret(field, text)) {
            secrets.insert(field.to_owned(), text.to_owned());
        }
    });
    secrets
}

/// Where a definition leads, and what that place is to be, without secrets.
pub(super) fn place_of(definition: &Map<String, Value>) -> String {
    let mut place = definition.clone();
    each_secret(&mut place, |_, value| *value = Value::Null);
    place.retain(|name, _| !BESIDES.contains(&name.as_str()) && !matches!(name.as_str(), "headers" | "environment"));
    Value::Object(place).to_string()
}

/// The merge patch (RFC 7396) that makes of what is shown what is wanted. What is the same is not mentioned: a sealed secret
/// that is mentioned is one that whoever does so wants shown to wherever the definition leads now, which is what `carry` says
/// of all of them.
pub(super) fn patch(shown: &Map<String, Value>, wanted: &Map<String, Value>, carry: bool) -> Map<String, Value> {
    let mut patch = difference(shown, wanted);
    if carry {
        each_secret(&mut wanted.clone(), |field, value| {
            let Some((table, name)) = field.split_once('.').filter(|_| value.as_str() == Some(SEALED)) else { return };
            let members = patch.entry(table).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(members) = members {
                members.insert(name.to_owned(), SEALED.into());
            }
        });
    }
    patch
}

fn difference(shown: &Map<String, Value>, wanted: &Map<String, Value>) -> Map<String, Value> {
    let gone = shown.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let other = wanted.iter().filter(|(key, value)| shown.get(*key) != Some(*value));
    let other = other.map(|(key, value)| match (shown.get(key), value) {
        (Some(Value::Object(shown)), Value::Object(wanted)) => (key.clone(), Value::Object(difference(shown, wanted))),
        _ => (key.clone(), value.clone()),
    });
    gone.chain(other).collect()
}

/// Whether a text in the place of a secret is one that somebody has typed.
fn is_typed_secret(field: &str, text: &str) -> bool {
    !text.is_empty() && text != SEALED && !is_mark(text) && said(field, text) == Said::Literal
}

/// Whether a text stands for a secret that was typed before.
fn is_mark(text: &str) -> bool {
    matches!(text, AGAIN | KEPT)
}

/// What is shown in the place of a secret.
fn shown<'t>(field: &str, text: &'t str, kept: &Secrets) -> &'t str {
    if is_typed_secret(field, text) && kept.contains_key(field) {
        KEPT
    } else if is_mark(text) || is_typed_secret(field, text) {
        AGAIN
    } else {
        text
    }
}

/// The lines of a table without the values that are secrets. A line that cannot be read may be one: of it, its place is left,
/// since mistakes are told by the numbers of lines.
fn hidden(table: &str, text: &str, (joint, join): (char, &str), kept: &Secrets) -> String {
    let line = |line: &str| match line.split_once(joint) {
        Some((name, value)) => {
            let name = name.trim();
            format!("{name}{join}{}", shown(&format!("{table}.{name}"), value.trim(), kept))
        }
        None if line.trim().is_empty() => String::new(),
        None => AGAIN.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The lines of a table with the values that are kept, where they say so.
fn filled(table: &str, text: &str, (joint, join): (char, &str), kept: &Secrets) -> String {
    let line = |line: &str| {
        let (name, value) = line.split_once(joint)?;
        let name = name.trim();
        let secret = kept.get(&format!("{table}.{name}")).filter(|_| value.trim() == KEPT)?;
        Some(format!("{name}{join}{secret}"))
    };
    text.lines().map(|text| line(text).unwrap_or_else(|| text.to_owned())).collect::<Vec<_>>().join("\n")
}

/// The members of a table that is typed line by line. No value is repeated in what is said of a mistake.
fn pairs(table: &str, text: &str, joint: char) -> Result<Map<String, Value>, Misfit> {
    let mut pairs = Map::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = number + 1;
        let Some((name, value)) = line.split_once(joint) else {
            return Err(Misfit::of(table, format!("line {number} of {table} has no {joint:?} between name and value")));
        };
        if pairs.insert(name.trim().to_owned(), value.trim().into()).is_some() {
            return Err(Misfit::of(table, format!("line {number} of {table} has a name that is there before")));
        }
    }
    Ok(pairs)
}

/// Those members that are said.
fn said_of<const N: usize>(members: [(&str, Option<Value>); N]) -> impl Iterator<Item = (String, Value)> {
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)))
}

fn text(text: &str) -> Option<Value> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.into())
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> Option<Value> {
    let items: Vec<Value> = items.map(Value::from).collect();
    (!items.is_empty()).then_some(Value::Array(items))
}

fn string(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn strings(value: Option<&Value>, joint: &str) -> String {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(joint)
}

fn joined(value: Option<&Value>, joint: &str) -> String {
    let members = value.and_then(Value::as_object).into_iter().flatten();
    let line = |(name, value): (&String, &Value)| format!("{name}{joint}{}", value.as_str().unwrap_or_default());
    members.map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn fields_and_definition_say_the_same() {
        for definition in [
            json!({}),
            json!({ "url": "https://notes.example/mcp" }),
            json!({
                "url": "https://notes.example/mcp", "headers": { "X-Key": "sealed", "Authorization": "Bearer env:T:1" },
                "trust": "internal", "labels": ["profile:a", "b c"], "call_timeout": "5s", "sync_interval": "1m",
                "prefix": false, "allow_on_all_keys": true,
            }),
            json!({ "command": ["npx", "-y", "a b"], "environment": { "A": "b=c", "EMPTY": "" }, "working_dir": "/srv" }),
            json!({ "url": "https://a", "auth": { "kind": "per-user-headers", "headers": ["x-a", "x-b"] } }),
            json!({ "command": ["x"], "auth": { "kind": "per-user-environment", "environment": ["TOKEN"] } }),
            json!({ "url": "https://a", "auth": {
                "kind": "shared-oauth", "issuer": "https://i", "client_id": "me", "client_secret": "sealed",
                "scopes": ["read", "write"],
            } }),
        ] {
            let definition = object(definition);
            let fields = UpstreamFields::of(&definition).unwrap_or_else(|| panic!("{definition:?} has no fields"));
            assert_eq!(fields.definition().unwrap(), definition);
        }
    }

    #[test]
    fn what_no_field_says_is_said_as_json() {
        for definition in [
            json!({ "url": "https://a", "tls": { "insecure": true } }),
            json!({ "url": "https://a", "protocol": "sse" }),
            json!({ "url": 7 }),
            json!({ "command": ["x", "two\nlines"] }),
            json!({ "command": ["x", ""] }),
            json!({ "environment": { "A": " b " } }),
            json!({ "labels": [7] }),
            json!({ "auth": { "kind": "token-exchange", "audience": "a" } }),
            json!({ "auth": [] }),
            json!({ "prefix": true }),
        ] {
            assert_eq!(UpstreamFields::of(&object(definition.clone())), None, "{definition}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_told_by_its_number_and_not_repeated() {
        for (headers, expected) in [
            ("x-a: 1\nhunter2", "line 2 of headers has no ':' between name and value"),
            ("\nx-a: 1\nx-a: hunter2", "line 3 of headers has a name that is there before"),
        ] {
            let fields = UpstreamFields { headers: headers.to_owned(), ..UpstreamFields::default() };
            assert_eq!(fields.definition().unwrap_err(), [Misfit::of("headers", expected)]);
        }
    }

    #[test]
    fn no_secret_is_shown_again() {
        let fields = UpstreamFields {
            headers: "x-key: hunter2\nAuthorization: Bearer env:T\nhunter3\nx-old: sealed".to_owned(),
            environment: "A=hunter4\nB=file:b".to_owned(),
            client_secret: "hunter5".to_owned(),
            ..UpstreamFields::default()
        };
        let shown = fields.without_secrets(&Secrets::new());
        let texts = [&shown.headers, &shown.environment, &shown.client_secret];
        assert!(!texts.into_iter().any(|text| text.contains("hunter")), "{texts:?}");
        assert_eq!(shown.headers, format!("x-key: {AGAIN}\nAuthorization: Bearer env:T\n{AGAIN}\nx-old: sealed"));
        assert_eq!(shown.environment, format!("A={AGAIN}\nB=file:b"));
        let misfits = shown.definition().unwrap_err();
        assert!(misfits[0].message.starts_with("line 3 of headers"), "where it was: {misfits:?}");
        let headers = shown.headers.replace(&format!("\n{AGAIN}\n"), "\n");
        let wrong = to_be_given_again(&UpstreamFields { headers, ..shown }.definition().unwrap());
        let wrong: Vec<_> = wrong.iter().filter_map(|misfit| misfit.field.as_deref()).collect();
        assert_eq!(wrong, ["headers.x-key", "environment.A", "auth.client_secret"]);
        let mut typed = object(json!({ "headers": { "a": "hunter2", "b": ["hunter3"], "c": "sealed" }, "trust": "t" }));
        hide(&mut typed, &Secrets::new());
        assert_eq!(Value::Object(typed), json!({ "headers": { "a": AGAIN, "b": AGAIN, "c": "sealed" }, "trust": "t" }));
    }

    #[test]
    fn what_is_kept_comes_back_where_it_was() {
        let fields = UpstreamFields {
            url: "https://a".to_owned(),
            headers: "x-key: hunter2\nx-t: Bearer env:T\nx-old: sealed\nx-two: a\nx-two: b".to_owned(),
            environment: "A = hunter4".to_owned(),
            client_secret: "hunter5".to_owned(),
            ..UpstreamFields::default()
        };
        let secrets = fields.secrets();
        let named: Vec<&str> = secrets.keys().map(String::as_str).collect();
        assert_eq!(
            named,
            ["auth.client_secret", "environment.A", "headers.x-key"],
            "one that is there twice is not kept"
        );
        let shown = fields.clone().without_secrets(&secrets);
        let headers = format!("x-key: {KEPT}\nx-t: Bearer env:T\nx-old: sealed\nx-two: {AGAIN}\nx-two: {AGAIN}");
        assert_eq!((&shown.headers, &shown.client_secret[..]), (&headers, KEPT));
        assert_eq!(shown.place(), fields.place());
        assert!(shown.secrets().is_empty());
        let again = shown.clone().with_secrets(&secrets);
        assert_eq!((&again.environment[..], &again.client_secret[..]), ("A=hunter4", "hunter5"));
        assert!(again.headers.starts_with("x-key: hunter2\n") && again.headers.ends_with(AGAIN), "{}", again.headers);
        assert_eq!(shown.clone().with_secrets(&Secrets::new()), shown);
        assert_eq!(
            shown.without_secrets(&secrets).client_secret,
            AGAIN,
            "what is not here any more has to be given again"
        );

        let mut typed = object(json!({ "url": "https://a", "headers": { "a": "hunter2", "b": ["x"] }, "trust": "t" }));
        let (whole, secrets, place) = (typed.clone(), secrets_of(&typed), place_of(&typed));
        hide(&mut typed, &secrets);
        assert_eq!(typed["headers"], json!({ "a": KEPT, "b": AGAIN }));
        assert_eq!(to_be_given_again(&typed).len(), 2);
        typed.insert("trust".to_owned(), json!("other"));
        assert_eq!(place_of(&typed), place);
        fill(&mut typed, &secrets);
        assert_eq!(typed["headers"]["a"], whole["headers"]["a"]);
        typed.insert("url".to_owned(), json!("https://b"));
        assert!(place_of(&typed) != place && !place.contains("hunter"));
    }

    #[test]
    fn a_patch_says_what_is_different_and_nothing_else() {
        let shown = json!({ "url": "https://a", "headers": { "x-a": "sealed", "x-b": "sealed" }, "labels": ["a"] });
        for (wanted, carry, expected) in [
            (shown.clone(), false, json!({})),
            (json!({ "url": "https://b" }), false, json!({ "url": "https://b", "headers": null, "labels": null })),
            (
                json!({ "url": "https://b", "headers": { "x-a": "sealed" }, "labels": ["a", "b"] }),
                false,
                json!({ "url": "https://b", "headers": { "x-b": null }, "labels": ["a", "b"] }),
            ),
            (
                json!({ "url": "https://b", "headers": { "x-a": "sealed", "x-b": "new" }, "labels": ["a"] }),
                true,
                json!({ "url": "https://b", "headers": { "x-a": "sealed", "x-b": "new" } }),
            ),
        ] {
            let patch = patch(&object(shown.clone()), &object(wanted.clone()), carry);
            assert_eq!(Value::Object(patch), expected, "{wanted}");
        }
    }
}

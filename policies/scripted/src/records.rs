//! The contract's records as facts, with the names of the contract's JSON form.
//!
//! Each record is taken apart in full, so that one that gets a new member does not compile until the member is here.

use portcullis_guest_sdk::{
    Access, Attr, Call, CallResult, Caller, Context, Item, ItemKind, ItemOutput, Note, Part, Question, SubjectKind,
    Tool, ToolHints, Transport, Upstream, client, credential, grant, refresh,
};

use crate::fact::{Fact, Json, Look, Members, Shape};

macro_rules! records {
    ($($record:ty { $($member:ident: $kind:ty),+ $(,)? })+) => { $(
        impl Members for $record {
            fn names(&self) -> &'static [&'static str] {
                &[$(stringify!($member)),+]
            }

            fn member(&self, name: &str) -> Fact<'_> {
                let Self { $($member),+ } = self;
                match name {
                    $(stringify!($member) => <$kind as Look>::fact($member),)+
                    _ => Fact::Absent,
                }
            }
        }

        impl Look for $record {
            type Of = Self;
            const SHAPE: &'static Shape = &Shape::Record(&[$((stringify!($member), <$kind as Look>::SHAPE)),+]);

            fn fact(of: &Self) -> Fact<'_> {
                Fact::Record(of)
            }
        }
    )+ };
}

records! {
    Context {
        decision_id: String, trace_id: String, now_ms: u64, session_id: Option<String>, transport: Transport,
        protocol_version: String, remote_ip: Option<String>, user_agent: Option<String>, caller: Caller,
        satisfied: Vec<String>, ext: Vec<Attr>,
    }
    Caller {
        subject: String, kind: SubjectKind, issuer: String, tenant: String, client_id: String,
        actor_chain: Vec<String>, groups: Vec<String>, scopes: Vec<String>, acr: Option<String>, amr: Vec<String>,
        auth_time: Option<u64>, claims: Json,
    }
    Attr { name: String, value: Json }
    Upstream { id: String, trust: String, labels: Vec<String> }
    Tool {
        upstream: String, name: String, exposed_as: String, hints: ToolHints, digest: String, labels: Vec<String>,
        title: Option<String>, description: Option<String>, input_schema: Option<Json>,
    }
    Item { kind: ItemKind, upstream: String, id: String, mime: Option<String>, labels: Vec<String> }
    Part { index: u32, kind: String, mime: Option<String>, bytes: u32, text: Option<String> }
    Note { key: String, value: String }
    Call { tool: Tool, upstream: Upstream, arguments: Option<Json>, arguments_bytes: u32, meta: Option<Json> }
    CallResult { tool: Tool, is_error: bool, parts: Vec<Part>, structured: Option<Json>, elapsed_ms: u32 }
    Access { method: String, kind: ItemKind, upstream: Upstream, id: String, arguments: Option<Json> }
    ItemOutput { method: String, kind: ItemKind, upstream: String, id: String, parts: Vec<Part> }
    Question { method: String, upstream: Upstream, params: Option<Json> }
    grant::Client {
        id: String, name: String, verified: bool, first_party: bool, redirect_host: String, metadata: Json,
    }
    grant::Request {
        kind: grant::GrantType, client: grant::Client, scopes: Vec<String>, already_granted: Vec<String>,
        resources: Vec<String>, upstreams: Vec<Upstream>, consent_on_file: bool, access_ttl_s: u32,
        refresh_ttl_s: Option<u32>, sender_constrained: bool,
    }
    grant::Terms {
        scopes: Vec<String>, tools: Option<Vec<String>>, access_ttl_s: Option<u32>, refresh_ttl_s: Option<u32>,
        require_sender_constraint: bool, claims: Option<Json>, notes: Vec<Note>,
    }
    refresh::Request {
        granted: grant::Terms, issued_at: u64, last_used: u64, uses: u32, requested: Vec<String>, reuse_detected: bool,
    }
    client::Request {
        source: client::Source, redirect_uris: Vec<String>, scopes: Vec<String>, software_id: Option<String>,
        metadata: Json,
    }
    credential::Request {
        upstream: Upstream, kind: String, account: Option<String>, purpose: String, tool: Option<String>,
        scopes: Vec<String>,
    }
}

macro_rules! names {
    ($($kind:ty { $($case:ident = $name:literal),+ $(,)? })+) => { $(
        impl Look for $kind {
            type Of = Self;
            const SHAPE: &'static Shape = &Shape::Scalar;

            fn fact(of: &Self) -> Fact<'_> {
                Fact::Text(match of {
                    $(Self::$case => $name,)+
                })
            }
        }
    )+ };
}

names! {
    SubjectKind { User = "user", Service = "service", Agent = "agent", Anonymous = "anonymous" }
    Transport { StreamableHttp = "streamable-http", Stdio = "stdio", Sse = "sse", Internal = "internal" }
    ItemKind { Content = "content", Template = "template", Prompt = "prompt", Skill = "skill", Task = "task" }
    grant::GrantType {
        AuthorizationCode = "authorization-code", DeviceCode = "device-code", ClientCredentials = "client-credentials",
        TokenExchange = "token-exchange", JwtBearer = "jwt-bearer",
    }
    client::Source {
        Dynamic = "dynamic", MetadataDocument = "metadata-document", PreRegistered = "pre-registered", Admin = "admin",
    }
}

/// Hints with their names in the contract and as members of the variable `hints`.
const HINTS: [(ToolHints, &str, &str); 6] = [
    (ToolHints::READ_ONLY, "read-only", "read_only"),
    (ToolHints::DESTRUCTIVE, "destructive", "destructive"),
    (ToolHints::IDEMPOTENT, "idempotent", "idempotent"),
    (ToolHints::OPEN_WORLD, "open-world", "open_world"),
    (ToolHints::FIRST_SEEN, "first-seen", "first_seen"),
    (ToolHints::CHANGED, "changed", "changed"),
];

impl Look for ToolHints {
    type Of = Self;
    const SHAPE: &'static Shape = &Shape::List(&Shape::Scalar);

    fn fact(of: &Self) -> Fact<'_> {
        Fact::List(HINTS.iter().filter(|(hint, ..)| of.contains(*hint)).map(|(_, name, _)| Fact::Text(name)).collect())
    }
}

/// The variable `hints`: every hint as a boolean.
pub(crate) struct Hints(pub(crate) ToolHints);

impl Hints {
    pub(crate) const SHAPE: &'static Shape = &Shape::Record(&[
        ("read_only", &Shape::Scalar),
        ("destructive", &Shape::Scalar),
        ("idempotent", &Shape::Scalar),
        ("open_world", &Shape::Scalar),
        ("first_seen", &Shape::Scalar),
        ("changed", &Shape::Scalar),
    ]);
}

impl Members for Hints {
    fn names(&self) -> &'static [&'static str] {
        &["read_only", "destructive", "idempotent", "open_world", "first_seen", "changed"]
    }

    fn member(&self, name: &str) -> Fact<'_> {
        let hint = HINTS.iter().find(|(_, _, member)| *member == name);
        hint.map_or(Fact::Absent, |(hint, ..)| Fact::Bool(self.0.contains(*hint)))
    }
}

#[cfg(test)]
mod tests {
    use portcullis_guest_sdk::serde::{Serialize, de::DeserializeOwned};
    use portcullis_guest_sdk::serde_json::{Value, from_value, json, to_value};

    use super::*;

    /// A fact as the JSON that it stands for.
    fn tree(fact: &Fact<'_>) -> Value {
        match fact {
            Fact::Absent => Value::Null,
            Fact::Bool(is) => json!(is),
            Fact::Number(number) => json!(number),
            Fact::Text(text) => json!(text),
            Fact::Json(text) => portcullis_guest_sdk::serde_json::from_str(text).unwrap(),
            Fact::List(facts) => facts.iter().map(tree).collect(),
            Fact::Record(record) => {
                record.names().iter().map(|name| ((*name).to_owned(), tree(&record.member(name)))).collect()
            }
        }
    }

    fn same<T: Members + Serialize + DeserializeOwned>(written: Value) {
        let record: T = from_value(written).unwrap();
        assert_eq!(tree(&Fact::Record(&record)), to_value(&record).unwrap());
    }

    #[test]
    fn facts_are_the_contracts_json_form() {
        let caller = json!({"subject": "ada", "kind": "agent", "scopes": ["a"], "acr": "mfa", "auth_time": 7, "claims": {"x": [1]}});
        same::<Context>(json!({
            "now_ms": 5, "transport": "stdio", "remote_ip": "::1", "caller": caller, "satisfied": ["x.y"],
            "ext": [{"name": "region", "value": {"eu": true}}],
        }));
        let tool = json!({"upstream": "notes", "name": "add", "hints": ["read-only", "first-seen"], "title": "Add", "input_schema": {}});
        same::<Call>(json!({"tool": tool, "upstream": {"id": "notes"}, "arguments": {"a": [null]}, "meta": {}}));
        same::<CallResult>(
            json!({"tool": tool, "parts": [{"kind": "text", "text": "x"}], "structured": [1], "elapsed_ms": 3}),
        );
        same::<Item>(json!({"kind": "prompt", "upstream": "notes", "id": "daily"}));
        same::<Access>(json!({"method": "prompts/get", "kind": "prompt", "id": "daily", "arguments": {"day": 1}}));
        same::<ItemOutput>(json!({"method": "resources/read", "kind": "content", "parts": [{"bytes": 9}]}));
        same::<Question>(json!({"method": "sampling/createMessage", "params": {"maxTokens": 1}}));
        same::<grant::Request>(json!({
            "kind": "device-code", "client": {"id": "c", "metadata": {"logo_uri": "x"}}, "scopes": ["a"], "refresh_ttl_s": 4,
            "upstreams": [{"id": "notes", "labels": ["internal"]}],
        }));
        let terms =
            json!({"scopes": ["a"], "tools": ["notes/*"], "claims": {"t": 1}, "notes": [{"key": "k", "value": "v"}]});
        same::<refresh::Request>(json!({"granted": terms, "uses": 2, "requested": ["a"]}));
        same::<client::Request>(
            json!({"source": "metadata-document", "redirect_uris": ["https://a.example"], "metadata": {"x": 1}}),
        );
        same::<credential::Request>(
            json!({"upstream": {"id": "mail"}, "kind": "per-user-oauth", "tool": "send", "scopes": ["s"]}),
        );
    }

    #[test]
    fn a_path_leads_to_a_member_or_to_nothing() {
        let context: Context = from_value(json!({"caller": {"subject": "ada", "claims": {"x": 1}}})).unwrap();
        let at = |path: &str| Fact::Record(&context).at(path).map(|fact| tree(&fact));
        assert_eq!(at("caller.subject"), Some(json!("ada")));
        for path in ["caller.acr", "caller.subjet", "caller.subject.x", "caller.claims.x", ""] {
            assert_eq!(at(path), None, "{path}");
        }
    }

    #[test]
    fn hints_are_booleans_too() {
        let hints = Hints(ToolHints::DESTRUCTIVE);
        let Shape::Record(members) = Hints::SHAPE else { panic!("a record") };
        assert!(members.iter().map(|(name, _)| *name).eq(hints.names().iter().copied()));
        assert!(
            members
                .iter()
                .all(|(name, _)| matches!(hints.member(name), Fact::Bool(is) if is == (*name == "destructive")))
        );
    }
}

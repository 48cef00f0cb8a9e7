//! One upstream of every kind, and one caller of every kind, with a gateway between them.

use portcullis_tests::{Caller, Gateway};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::scripted::{Manner, Offer, Scripted};

/// The kinds of upstreams, and the names under which they are configured.
pub(super) const KINDS: [&str; 6] =
    ["legacy", "legacy-events", "modern", "modern-events", "legacy-child", "modern-child"];

/// Answers with what the files beside it say, and keeps the last request.
const CHILD: &str = r#"while IFS= read -r line; do
  case $line in *'"id":'*) ;; *) continue ;; esac
  id=${line#*\"id\":}; id=${id%%,*}
  case $line in
    *'"method":"initialize"'*) name=initialize ;;
    *'"method":"server/discover"'*) name=discover ;;
    *'"method":"tools/list"'*) name=tools ;;
    *'"method":"prompts/list"'*) name=prompts ;;
    *'"method":"resources/list"'*) name=resources ;;
    *'"method":"resources/templates/list"'*) name=templates ;;
    *) name=answer; printf '%s\n' "$line" > "$1.seen" ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$(cat "$1.$name")"
done
"#;

pub(super) struct Scene {
    pub(super) gateway: Gateway,
    scripted: Vec<(&'static str, Scripted)>,
    pub(super) legacy: Caller,
    pub(super) modern: Caller,
}

pub(super) fn is_modern(kind: &str) -> bool {
    kind.starts_with("modern")
}

/// What an upstream of each kind offers where a test has no other wish.
pub(super) fn plain(kind: &str) -> Offer {
    Offer {
        tools: vec![r#"{"name":"t","inputSchema":{"type":"object"}}"#.to_owned()],
        prompts: vec![r#"{"name":"p"}"#.to_owned()],
        resources: vec![format!(r#"{{"uri":"{kind}://r","name":"r"}}"#)],
        templates: vec![format!(r#"{{"uriTemplate":"{kind}://t/{{id}}","name":"t"}}"#)],
        capabilities: vec![r#""completions":{}"#.to_owned()],
        instructions: None,
    }
}

impl Scene {
    /// `offer` says what the upstream of each kind lists.
    pub(super) async fn start(offer: impl Fn(&str) -> Offer) -> Self {
        let manners = [
            ("legacy", Manner::Legacy),
            ("legacy-events", Manner::LegacyEvents),
            ("modern", Manner::Modern),
            ("modern-events", Manner::ModernEvents),
        ];
        let mut scripted = Vec::new();
        for (kind, manner) in manners {
            scripted.push((kind, Scripted::with(manner, offer(kind)).await));
        }
        let mut builder = Gateway::builder().key("alice").file("child.sh", CHILD.as_bytes());
        builder = scripted.iter().fold(builder, |builder, (kind, up)| builder.http_upstream(kind, &up.url));
        for kind in ["legacy-child", "modern-child"] {
            builder = builder.section(&format!(
                "[upstreams.{kind}]\ncommand = [\"sh\", \"child.sh\", \"{kind}\"]\nworking_dir = \".\""
            ));
            for (file, member) in child_files(&offer(kind), is_modern(kind)) {
                builder = builder.file(&format!("{kind}.{file}"), member.as_bytes());
            }
        }
        let gateway = builder.start().await;
        gateway.until_upstreams_are_up().await;
        let able = serde_json::json!({ "elicitation": {} });
        let modern = gateway.caller("alice").able(able);
        let legacy = modern.initialize("2025-11-25").await;
        Self { gateway, scripted, legacy, modern }
    }

    /// From now on the upstream of this kind answers requests of this method like this.
    pub(super) fn answer(&self, kind: &str, method: &str, member: &str) {
        match self.scripted.iter().find(|(name, _)| *name == kind) {
            Some((_, up)) => up.answer_to(method, member),
            None => self.gateway.replace(&format!("{kind}.answer"), member.as_bytes()),
        }
    }

    /// What the upstream writes on the stream of a request before it answers.
    pub(super) fn say_before(&self, kind: &str, method: &str, message: &str) {
        let (_, up) = self.scripted.iter().find(|(name, _)| *name == kind).expect("it has event streams");
        up.say_before(method, message);
    }

    /// JSON text of the parameters that the upstream of this kind saw last.
    pub(super) fn seen(&self, kind: &str, method: &str) -> String {
        #[derive(Deserialize)]
        struct Line<'a> {
            method: &'a str,
            #[serde(borrow)]
            params: &'a RawValue,
        }
        match self.scripted.iter().find(|(name, _)| *name == kind) {
            Some((_, up)) => up.last(method).params,
            None => {
                let line = std::fs::read_to_string(self.gateway.dir.path().join(format!("{kind}.seen"))).unwrap();
                let line: Line<'_> = serde_json::from_str(&line).unwrap();
                assert_eq!(line.method, method);
                line.params.get().to_owned()
            }
        }
    }

    /// The callers, and whether they speak the stateless revision.
    pub(super) fn callers(&self) -> [(&Caller, bool); 2] {
        [(&self.legacy, false), (&self.modern, true)]
    }
}

fn child_files(offer: &Offer, is_modern: bool) -> Vec<(&'static str, String)> {
    let list = |name: &str, items: &[String]| {
        let era = if is_modern { r#","resultType":"complete","ttlMs":0,"cacheScope":"public""# } else { "" };
        format!(r#""result":{{"{name}":[{}]{era}}}"#, items.join(","))
    };
    let capabilities = r#""capabilities":{"tools":{},"prompts":{},"resources":{},"completions":{}}"#;
    let none = r#""error":{"code":-32601,"message":"Method not found"}"#.to_owned();
    let discover = format!(
        r#""result":{{"supportedVersions":["2026-07-28"],{capabilities},"resultType":"complete","ttlMs":0,"cacheScope":"public"}}"#
    );
    let initialize = format!(
        r#""result":{{"protocolVersion":"2025-11-25",{capabilities},"serverInfo":{{"name":"c","version":"1"}}}}"#
    );
    vec![
        ("initialize", if is_modern { none.clone() } else { initialize }),
        ("discover", if is_modern { discover } else { none }),
        ("tools", list("tools", &offer.tools)),
        ("prompts", list("prompts", &offer.prompts)),
        ("resources", list("resources", &offer.resources)),
        ("templates", list("resourceTemplates", &offer.templates)),
        ("answer", r#""result":{}"#.to_owned()),
    ]
}

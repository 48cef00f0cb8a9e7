//! Which answer a message gets, in both eras of MCP. Nothing here knows how messages travel.
//!
//! A request whose `_meta` names a protocol version belongs to the stateless era (2026-07-28); every other one to
//! the session-based era (2025-11-25, 2025-06-18). Of the protocol this speaks what a server with tools and
//! nothing else needs: no prompts, no resources, no notifications of its own.

use serde_json::{Map, Value, json};

use crate::tool::Toolbox;

/// The stateless revision.
pub(crate) const MODERN: &str = "2026-07-28";
/// The session-based revisions, newest first.
pub(crate) const LEGACY: [&str; 2] = ["2025-11-25", "2025-06-18"];

const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
const SERVER_INFO_KEY: &str = "io.modelcontextprotocol/serverInfo";

/// How long clients may keep the list of tools, which changes with the program only.
const LIST_TTL_MS: u64 = 300_000;

/// One server: its tools and the protocol around them.
pub(crate) struct Server<S> {
    toolbox: Toolbox<S>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

/// A JSON-RPC message from a client.
#[derive(Debug)]
pub(crate) enum Message {
    Request(Request),
    Notification,
    /// An answer to a request of ours. We make none, so nobody waits for it.
    Response,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: Value,
    pub(crate) method: String,
    pub(crate) params: Map<String, Value>,
}

/// Why a message gets a JSON-RPC error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NotJson,
    NotAMessage(&'static str),
    UnknownMethod(String),
    BadParams(String),
    /// A stateless request lacks what each must carry.
    BadMeta(&'static str),
    /// A header and the body say different things.
    HeaderMismatch(&'static str),
    UnsupportedVersion(String),
}

impl Message {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let value: Value = serde_json::from_slice(bytes).map_err(|_| Fault::NotJson)?;
        let Value::Object(mut message) = value else { return Err(Fault::NotAMessage("a message is one JSON object")) };
        if message.get("jsonrpc") != Some(&json!("2.0")) {
            return Err(Fault::NotAMessage("`jsonrpc` must be \"2.0\""));
        }
        let Some(method) = message.remove("method") else {
            let answers = message.contains_key("result") || message.contains_key("error");
            return if answers { Ok(Self::Response) } else { Err(Fault::NotAMessage("`method` is missing")) };
        };
        let Value::String(method) = method else { return Err(Fault::NotAMessage("`method` must be a string")) };
        let params = match message.remove("params") {
            None => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Err(Fault::NotAMessage("`params` must be an object")),
        };
        match message.remove("id") {
            None => Ok(Self::Notification),
            Some(id) if id.is_string() || id.is_i64() || id.is_u64() => {
                Ok(Self::Request(Request { id, method, params }))
            }
            Some(_) => Err(Fault::NotAMessage("`id` must be a string or an integer")),
        }
    }
}

impl Request {
    /// The version that the request declares for itself.
    pub(crate) fn declared_version(&self) -> Option<&str> {
        self.params.get("_meta")?.get(VERSION_KEY)?.as_str()
    }

    pub(crate) fn era(&self) -> Era {
        if self.declared_version().is_some() || self.method == "server/discover" { Era::Modern } else { Era::Legacy }
    }

    /// Checks what every stateless request must carry (2026-07-28, `RequestMetaObject`).
    pub(crate) fn check_meta(&self) -> Result<(), Fault> {
        let Some(Value::Object(meta)) = self.params.get("_meta") else {
            return Err(Fault::BadMeta("`_meta` must be an object"));
        };
        let Some(Value::String(version)) = meta.get(VERSION_KEY) else {
            return Err(Fault::BadMeta("`_meta` must name the protocol version"));
        };
        if version != MODERN {
            return Err(Fault::UnsupportedVersion(version.clone()));
        }
        if !meta.get(CAPABILITIES_KEY).is_some_and(Value::is_object) {
            return Err(Fault::BadMeta("`_meta` must hold the client's capabilities"));
        }
        Ok(())
    }
}

impl<S> Server<S> {
    pub(crate) fn new(toolbox: Toolbox<S>) -> Self {
        Self { toolbox }
    }

    /// The result for a request. A stateless one has passed [`Request::check_meta`].
    pub(crate) fn answer(&self, era: Era, request: &Request) -> Result<Value, Fault> {
        let result = match (era, request.method.as_str()) {
            (Era::Legacy, "initialize") => self.initialize(&request.params)?,
            (Era::Legacy, "ping") => json!({}),
            (Era::Modern, "server/discover") => self.discover(),
            (_, "tools/list") => self.list_tools(era, &request.params)?,
            (_, "tools/call") => self.call_tool(&request.params)?,
            (_, other) => return Err(Fault::UnknownMethod(other.to_owned())),
        };
        Ok(match era {
            Era::Legacy => result,
            Era::Modern => self.sign(result),
        })
    }

    fn initialize(&self, params: &Map<String, Value>) -> Result<Value, Fault> {
        let Some(Value::String(asked)) = params.get("protocolVersion") else {
            return Err(Fault::BadParams("`protocolVersion` is missing".into()));
        };
        let version = LEGACY.into_iter().find(|version| version == asked).unwrap_or(LEGACY[0]);
        Ok(json!({
            "protocolVersion": version,
            "capabilities": { "tools": {} },
            "serverInfo": self.info(),
            "instructions": self.toolbox.instructions,
        }))
    }

    fn discover(&self) -> Value {
        json!({
            "supportedVersions": [MODERN],
            "capabilities": { "tools": {} },
            "instructions": self.toolbox.instructions,
            "ttlMs": LIST_TTL_MS,
            "cacheScope": "public",
        })
    }

    fn list_tools(&self, era: Era, params: &Map<String, Value>) -> Result<Value, Fault> {
        if params.contains_key("cursor") {
            return Err(Fault::BadParams("unknown cursor: the list has one page".into()));
        }
        let mut result = json!({ "tools": self.toolbox.list() });
        if era == Era::Modern {
            result["ttlMs"] = json!(LIST_TTL_MS);
            result["cacheScope"] = json!("public");
        }
        Ok(result)
    }

    fn call_tool(&self, params: &Map<String, Value>) -> Result<Value, Fault> {
        let Some(Value::String(name)) = params.get("name") else {
            return Err(Fault::BadParams("`name` is missing".into()));
        };
        let arguments = match params.get("arguments") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments.clone(),
            Some(_) => return Err(Fault::BadParams("`arguments` must be an object".into())),
        };
        self.toolbox.call(name, arguments).ok_or_else(|| Fault::BadParams(format!("Unknown tool: {name}")))
    }

    /// Adds what every stateless result says.
    fn sign(&self, mut result: Value) -> Value {
        result["resultType"] = json!("complete");
        result["_meta"] = json!({ SERVER_INFO_KEY: self.info() });
        result
    }

    fn info(&self) -> Value {
        json!({ "name": self.toolbox.name, "title": self.toolbox.title, "version": env!("CARGO_PKG_VERSION") })
    }
}

impl Fault {
    pub(crate) fn code(&self) -> i32 {
        match self {
            Self::NotJson => -32700,
            Self::NotAMessage(_) => -32600,
            Self::UnknownMethod(_) => -32601,
            Self::BadParams(_) | Self::BadMeta(_) => -32602,
            Self::HeaderMismatch(_) => -32020,
            Self::UnsupportedVersion(_) => -32022,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::NotJson => "Not JSON".into(),
            Self::UnknownMethod(method) => format!("Method not found: {method}"),
            Self::BadParams(text) => text.clone(),
            Self::NotAMessage(text) | Self::BadMeta(text) | Self::HeaderMismatch(text) => (*text).into(),
            Self::UnsupportedVersion(_) => "Unsupported protocol version".into(),
        }
    }
}

/// The JSON-RPC response to the request of this id, or to a message whose id could not be read.
pub(crate) fn response(id: Option<Value>, outcome: Result<Value, Fault>) -> Value {
    let mut response = json!({ "jsonrpc": "2.0" });
    response["id"] = id.unwrap_or(Value::Null);
    match outcome {
        Ok(result) => response["result"] = result,
        Err(fault) => {
            let mut error = json!({ "code": fault.code(), "message": fault.message() });
            if let Fault::UnsupportedVersion(requested) = &fault {
                error["data"] = json!({ "supported": [MODERN], "requested": requested });
            }
            response["error"] = error;
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "called with literals")]
    fn request(method: &str, params: Value) -> Request {
        let message = json!({ "jsonrpc": "2.0", "id": 0, "method": method, "params": params });
        match Message::parse(message.to_string().as_bytes()) {
            Ok(Message::Request(request)) => request,
            other => panic!("not a request: {other:?}"),
        }
    }

    fn modern(method: &str, mut params: Value) -> Request {
        params["_meta"] = json!({ VERSION_KEY: MODERN, CAPABILITIES_KEY: {} });
        request(method, params)
    }

    #[test]
    fn what_is_no_message_is_told_why() {
        let cases: &[(&str, i32)] = &[
            ("", -32700),
            ("{", -32700),
            ("[]", -32600),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
            (r#"{"id":1,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, -32600),
        ];
        for (text, code) in cases {
            assert_eq!(Message::parse(text.as_bytes()).unwrap_err().code(), *code, "{text}");
        }
        assert!(matches!(
            Message::parse(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
            Ok(Message::Notification)
        ));
        assert!(matches!(Message::parse(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#), Ok(Message::Response)));
    }

    #[test]
    fn the_client_gets_its_version_or_our_newest_with_sessions() {
        let server = Server::new(crate::notes::toolbox());
        for (asked, answered) in
            [("2025-06-18", "2025-06-18"), ("2025-11-25", "2025-11-25"), ("2024-11-05", "2025-11-25")]
        {
            let asked = request("initialize", json!({ "protocolVersion": asked, "capabilities": {} }));
            assert_eq!(asked.era(), Era::Legacy);
            assert_eq!(server.answer(Era::Legacy, &asked).unwrap()["protocolVersion"], answered);
        }
    }

    #[test]
    fn stateless_results_carry_what_the_revision_demands() {
        let server = Server::new(crate::tracker::toolbox());
        for method in ["server/discover", "tools/list", "tools/call"] {
            let request = modern(method, json!({ "name": "list_issues" }));
            assert_eq!(request.era(), Era::Modern);
            request.check_meta().unwrap();
            let result = server.answer(Era::Modern, &request).unwrap();
            assert_eq!(result["resultType"], "complete", "{method}");
            assert_eq!(result["_meta"][SERVER_INFO_KEY]["name"], "example-tracker", "{method}");
            assert_eq!(result.get("ttlMs").is_some(), method != "tools/call", "{method}");
        }
    }

    #[test]
    fn each_era_has_its_own_methods() {
        let server = Server::new(crate::notes::toolbox());
        let cases = [
            (Era::Legacy, "server/discover"),
            (Era::Legacy, "prompts/list"),
            (Era::Modern, "initialize"),
            (Era::Modern, "ping"),
        ];
        for (era, method) in cases {
            let fault = server.answer(era, &modern(method, json!({}))).unwrap_err();
            assert_eq!(fault, Fault::UnknownMethod(method.into()), "{era:?}");
        }
        assert_eq!(server.answer(Era::Legacy, &request("ping", json!({}))), Ok(json!({})));
    }

    #[test]
    fn stateless_requests_must_say_who_they_are() {
        let cases = [
            (json!({}), -32602),
            (json!({ "_meta": { CAPABILITIES_KEY: {} } }), -32602),
            (json!({ "_meta": { VERSION_KEY: MODERN } }), -32602),
            (json!({ "_meta": { VERSION_KEY: "2031-01-01", CAPABILITIES_KEY: {} } }), -32022),
        ];
        for (params, code) in cases {
            assert_eq!(request("server/discover", params.clone()).check_meta().unwrap_err().code(), code, "{params}");
        }
    }

    #[test]
    fn wrong_calls_are_protocol_errors_only_where_no_tool_is_meant() {
        let server = Server::new(crate::notes::toolbox());
        for params in [json!({}), json!({ "name": "drop_notes" }), json!({ "name": "list_notes", "arguments": [] })] {
            let fault = server.answer(Era::Legacy, &request("tools/call", params.clone())).unwrap_err();
            assert_eq!(fault.code(), -32602, "{params}");
        }
        let wrong = request("tools/call", json!({ "name": "read_note", "arguments": { "id": "note-99" } }));
        assert_eq!(server.answer(Era::Legacy, &wrong).unwrap()["isError"], true);
        assert_eq!(
            server.answer(Era::Legacy, &request("tools/list", json!({ "cursor": "x" }))).unwrap_err().code(),
            -32602
        );
    }
}

//! One operation, said in as few words as hold: what follows from others is added here.
//!
//! Every operation can be refused by the listener (400, 403), to whoever is not let in (401, 403, 429), and by a store that
//! does not answer (503). One with a parameter in its path can miss what it names (404); one with a body can be sent one that
//! is late, too large, of another type or wrong (400, 408, 413, 415, 422), and one that changes something without a body can be
//! sent one all the same. Whatever else it refuses it says itself, with the
//! codes of the problem documents.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use utoipa::openapi::content::Content;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{
    AdditionalProperties, AllOfBuilder, ArrayBuilder, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{KnownFormat, Ref, RefOr, Required};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::word;
use crate::http::api::{FRESH, MERGE_PATCH};

/// The one security scheme.
pub(super) const BEARER: &str = "bearer";
/// What `If-Match` says: whatever there is, or revisions (a weak tag is none).
const TAGS: &str = r#"^(\*|(W/)?"[0-9]{1,19}"(, ?(W/)?"[0-9]{1,19}"){0,15})$"#;
/// What all paths begin with.
const PREFIX: &str = "/api/v1/";

/// One operation. Its handler stands beside what makes it.
pub(in crate::http::api) struct Described {
    pub(super) method: HttpMethod,
    pub(super) path: &'static str,
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Parameter>,
    body: Option<RequestBody>,
    answers: BTreeMap<u16, ResponseBuilder>,
    problems: BTreeMap<u16, BTreeSet<&'static str>>,
    /// What the others name.
    pub(super) schemas: Vec<(String, RefOr<Schema>)>,
}

/// What is read. The summary has no full stop.
pub(in crate::http::api) fn get(path: &'static str, id: &'static str, summary: &'static str) -> Described {
    Described::new(HttpMethod::Get, path, id, summary)
}

pub(in crate::http::api) fn post(path: &'static str, id: &'static str, summary: &'static str) -> Described {
    Described::new(HttpMethod::Post, path, id, summary)
}

pub(in crate::http::api) fn patch(path: &'static str, id: &'static str, summary: &'static str) -> Described {
    Described::new(HttpMethod::Patch, path, id, summary)
}

pub(in crate::http::api) fn delete(path: &'static str, id: &'static str, summary: &'static str) -> Described {
    Described::new(HttpMethod::Delete, path, id, summary)
}

impl Described {
    fn new(method: HttpMethod, path: &'static str, id: &'static str, summary: &'static str) -> Self {
        let described = Self {
            method,
            path,
            id,
            summary,
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            problems: BTreeMap::new(),
            schemas: Vec::new(),
        };
        let described = described
            .refuses(StatusCode::BAD_REQUEST, &["bad_host", "invalid_query"])
            .refuses(StatusCode::UNAUTHORIZED, &["unauthenticated"])
            .refuses(StatusCode::FORBIDDEN, &["forbidden", "forbidden_host", "forbidden_origin", "not_our_page"])
            .refuses(StatusCode::TOO_MANY_REQUESTS, &["too_many_attempts"])
            .refuses(
                StatusCode::SERVICE_UNAVAILABLE,
                &["store_unavailable", "vault_unavailable", "authorization_unavailable"],
            );
        let described = match FRESH.contains(&(word(&described.method), path)) {
            true => described.refuses(StatusCode::FORBIDDEN, &["step_up_required"]),
            false => described,
        };
        match names(path).next() {
            None => described,
            Some(_) => {
                let mut described = described.refuses(StatusCode::NOT_FOUND, &["not_found"]);
                described.parameters.extend(names(path).map(in_path));
                described
            }
        }
    }

    /// With the parameters of a query string.
    pub(in crate::http::api) fn asks<Q: IntoParams>(mut self) -> Self {
        self.parameters.extend(Q::into_params(|| Some(ParameterIn::Query)));
        self
    }

    /// The same, where values can be read and mean nothing.
    pub(in crate::http::api) fn filters<Q: IntoParams>(self) -> Self {
        self.asks::<Q>().refuses(StatusCode::UNPROCESSABLE_ENTITY, &["invalid"])
    }

    /// With a JSON object as the body.
    pub(in crate::http::api) fn takes<T: ToSchema>(mut self) -> Self {
        let schema = self.refer::<T>();
        self.reads(&schema)
    }

    /// With a JSON object as the body that has the members of both, and no others. It is called like the first one.
    pub(in crate::http::api) fn takes_both<T: ToSchema, M: ToSchema>(mut self) -> Self {
        T::schemas(&mut self.schemas);
        M::schemas(&mut self.schemas);
        self.schemas
            .push((T::name().into_owned(), closed(<T as PartialSchema>::schema(), <M as PartialSchema>::schema())));
        self.reads(&Ref::from_schema_name(T::name()).into())
    }

    /// A merge patch has a type of its own besides (RFC 7396 §4).
    fn reads(mut self, schema: &RefOr<Schema>) -> Self {
        let content = || Content::new(Some(schema.clone()));
        let body = RequestBodyBuilder::new().content("application/json", content()).required(Some(Required::True));
        let body = match self.method {
            HttpMethod::Patch => body.content(MERGE_PATCH, content()),
            _ => body,
        };
        self.body = Some(body.build());
        self.refuses(StatusCode::BAD_REQUEST, &["bad_body"])
            .refuses(StatusCode::REQUEST_TIMEOUT, &["bad_body"])
            .refuses(StatusCode::PAYLOAD_TOO_LARGE, &["bad_body"])
            .refuses(StatusCode::UNSUPPORTED_MEDIA_TYPE, &["unsupported_media_type"])
            .refuses(StatusCode::UNPROCESSABLE_ENTITY, &["invalid"])
    }

    /// With bytes of this type as the body, and their signatures in this header, if there are any.
    pub(in crate::http::api) fn takes_module(mut self, media_type: &str, signatures: &str) -> Self {
        let bytes =
            ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
        let content = Content::new(Some(Schema::from(bytes)));
        self.body = Some(RequestBodyBuilder::new().content(media_type, content).required(Some(Required::True)).build());
        let parameter = ParameterBuilder::new()
            .name(signatures)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some("What the file of signatures beside the module says, in base64."))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()));
        self.parameters.push(parameter.build());
        self.refuses(StatusCode::BAD_REQUEST, &["bad_body"])
            .refuses(StatusCode::REQUEST_TIMEOUT, &["bad_body"])
            .refuses(StatusCode::PAYLOAD_TOO_LARGE, &["bad_body"])
            .refuses(StatusCode::UNSUPPORTED_MEDIA_TYPE, &["unsupported_media_type"])
    }

    /// Answers with this as JSON.
    pub(in crate::http::api) fn gives<T: ToSchema>(mut self, status: StatusCode) -> Self {
        let schema = self.refer::<T>();
        self.answers_with(status, "application/json", schema)
    }

    /// Answers 200 with this as JSON.
    pub(in crate::http::api) fn shows<T: ToSchema>(self) -> Self {
        self.gives::<T>(StatusCode::OK)
    }

    /// Answers 200 with an object that has a whole list as the member of this name.
    pub(in crate::http::api) fn lists<T: ToSchema>(mut self, member: &'static str) -> Self {
        let row = self.refer::<T>();
        let list = ObjectBuilder::new().property(member, ArrayBuilder::new().items(row)).required(member);
        self.answers_with(StatusCode::OK, "application/json", list.build().into())
    }

    /// Answers 200 with a page of a list, and the cursor of the next one.
    pub(in crate::http::api) fn pages<T: ToSchema>(mut self, member: &'static str) -> Self {
        let row = self.refer::<T>();
        let cursor = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("Of the next page; null at the end."));
        let page = ObjectBuilder::new()
            .property(member, ArrayBuilder::new().items(row))
            .property("next_cursor", cursor)
            .required(member)
            .required("next_cursor");
        self.answers_with(StatusCode::OK, "application/json", page.build().into())
            .refuses(StatusCode::BAD_REQUEST, &["invalid_cursor"])
    }

    /// Answers without a body.
    pub(in crate::http::api) fn says(mut self, status: StatusCode) -> Self {
        self.answers.insert(status.as_u16(), ResponseBuilder::new().description(title(status)));
        self
    }

    /// Answers 200 with what is no JSON.
    pub(in crate::http::api) fn streams(self, media_type: &str) -> Self {
        let bytes =
            ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
        self.answers_with(StatusCode::OK, media_type, bytes.build().into())
    }

    /// Answers 200 with a stream of events, which are called like this (HTML § 9.2).
    pub(in crate::http::api) fn tells(self, events: &[&str]) -> Self {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let event = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("id", text())
            .property("event", text().enum_values(Some(events.iter().copied())))
            .property("data", text())
            .property("retry", ObjectBuilder::new().schema_type(Type::Integer));
        self.answers_with(StatusCode::OK, "text/event-stream", event.build().into())
    }

    /// Every answer that succeeds has the revision as `ETag`, where there is one.
    pub(in crate::http::api) fn tagged(self) -> Self {
        self.with_header(
            "ETag",
            r#"The revision in quotes, for If-Match: `"7"`. What the configuration file declares has none."#,
        )
    }

    /// Every answer that succeeds says where what was made is.
    pub(in crate::http::api) fn located(self) -> Self {
        self.with_header("Location", "Where it is from now on.")
    }

    /// Minds `If-Match`.
    pub(in crate::http::api) fn if_match(self) -> Self {
        self.minds(Required::False)
    }

    /// Refuses whoever says no `If-Match`.
    pub(in crate::http::api) fn needs_if_match(self) -> Self {
        self.minds(Required::True).refuses(StatusCode::PRECONDITION_REQUIRED, &["precondition_required"])
    }

    /// Refuses with these codes, besides those that are said already.
    pub(in crate::http::api) fn refuses(mut self, status: StatusCode, codes: &[&'static str]) -> Self {
        self.problems.entry(status.as_u16()).or_default().extend(codes);
        self
    }

    /// Refuses because of how things are.
    pub(in crate::http::api) fn conflicts(self, codes: &[&'static str]) -> Self {
        self.refuses(StatusCode::CONFLICT, codes)
    }

    /// Whether any name is known in its query.
    pub(super) fn takes_query(&self) -> bool {
        self.parameters.iter().any(|parameter| parameter.parameter_in == ParameterIn::Query)
    }

    /// Whether it changes something, and nothing can be said in its body.
    pub(super) fn refuses_body(&self) -> bool {
        self.body.is_none() && self.method != HttpMethod::Get
    }

    /// The same with what it refuses because of its body.
    pub(super) fn with_body_refused(self) -> Self {
        if !self.refuses_body() {
            return self;
        }
        self.refuses(StatusCode::BAD_REQUEST, &["bad_body"])
            .refuses(StatusCode::REQUEST_TIMEOUT, &["bad_body"])
            .refuses(StatusCode::PAYLOAD_TOO_LARGE, &["bad_body"])
            .refuses(StatusCode::UNPROCESSABLE_ENTITY, &["invalid"])
    }

    /// Names of the problems that it answers with, and what they are.
    pub(super) fn problems(&self) -> Vec<(String, Response)> {
        let named = |(status, codes): (&u16, _)| (name_of(*status, codes), problem(*status, codes));
        self.problems.iter().map(named).collect()
    }

    /// As the document has it, which has the problems besides.
    pub(super) fn into_operation(self) -> Operation {
        let mut operation = OperationBuilder::new()
            .operation_id(Some(self.id))
            .summary(Some(format!("{}.", self.summary)))
            .tag(tag(self.path))
            .parameters(Some(self.parameters))
            .request_body(self.body)
            .security(SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, []));
        for (status, answer) in self.answers {
            operation = operation.response(status.to_string(), answer.build());
        }
        for (status, codes) in self.problems {
            operation = operation.response(status.to_string(), Ref::from_response_name(name_of(status, &codes)));
        }
        operation.build()
    }

    /// The name of a schema, which the document has from then on, with those that it names.
    fn refer<T: ToSchema>(&mut self) -> RefOr<Schema> {
        self.schemas.push((T::name().into_owned(), <T as PartialSchema>::schema()));
        T::schemas(&mut self.schemas);
        Ref::from_schema_name(T::name()).into()
    }

    fn answers_with(mut self, status: StatusCode, media_type: &str, schema: RefOr<Schema>) -> Self {
        let answer = ResponseBuilder::new().description(title(status)).content(media_type, Content::new(Some(schema)));
        self.answers.insert(status.as_u16(), answer);
        self
    }

    fn with_header(mut self, name: &str, description: &str) -> Self {
        let header = || {
            let mut header = Header::new(ObjectBuilder::new().schema_type(Type::String).build());
            header.description = Some(description.to_owned());
            header
        };
        self.answers =
            self.answers.into_iter().map(|(status, answer)| (status, answer.header(name, header()))).collect();
        self
    }

    fn minds(mut self, required: Required) -> Self {
        let description =
            r#"Only if it is of one of these revisions, as ETag told them, such as `"7"`; `*` is whatever there is."#;
        let parameter = ParameterBuilder::new()
            .name("If-Match")
            .parameter_in(ParameterIn::Header)
            .required(required)
            .description(Some(description))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).pattern(Some(TAGS)).build()));
        self.parameters.push(parameter.build());
        self.refuses(StatusCode::BAD_REQUEST, &["invalid_if_match"])
            .refuses(StatusCode::PRECONDITION_FAILED, &["precondition_failed"])
    }
}

/// The members of two objects as one, which has no others.
fn closed(one: RefOr<Schema>, other: RefOr<Schema>) -> RefOr<Schema> {
    match (one, other) {
        (RefOr::T(Schema::Object(mut one)), RefOr::T(Schema::Object(other))) => {
            one.properties.extend(other.properties);
            one.required.extend(other.required);
            one.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
            RefOr::T(Schema::Object(one))
        }
        (one, other) => Schema::from(AllOfBuilder::new().item(one).item(other)).into(),
    }
}

/// Names of the parameters of a path.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn in_path(name: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).build()))
        .build()
}

/// The area: the first part of a path, without what it is the path of.
fn tag(path: &str) -> &str {
    let area = path.strip_prefix(PREFIX).unwrap_or(path);
    let area = area.split('/').next().unwrap_or(area);
    area.strip_suffix(".json").unwrap_or(area)
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("error")
}

/// Under which name a problem is told once for all operations.
fn name_of(status: u16, codes: &BTreeSet<&'static str>) -> String {
    let title = StatusCode::from_u16(status).ok().map_or("error", title);
    let codes: String = codes.iter().map(|code| format!(".{code}")).collect();
    format!("{}{codes}", title.replace(' ', ""))
}

/// A problem document with one of these codes.
fn problem(status: u16, codes: &BTreeSet<&'static str>) -> Response {
    let title = StatusCode::from_u16(status).ok().map_or("error", title);
    let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes.iter().copied()));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name("Problem"))
        .item(ObjectBuilder::new().property("code", code).required("code"));
    let response = ResponseBuilder::new()
        .description(title)
        .content("application/problem+json", Content::new(Some(Schema::from(schema))));
    let header = |description: &str, type_of: Type| {
        let mut header = Header::new(ObjectBuilder::new().schema_type(type_of).build());
        header.description = Some(description.to_owned());
        header
    };
    match status {
        401 => response.header("WWW-Authenticate", header("The scheme is Bearer.", Type::String)).build(),
        429 | 503 => response.header("Retry-After", header("In seconds.", Type::Integer)).build(),
        _ => response.build(),
    }
}

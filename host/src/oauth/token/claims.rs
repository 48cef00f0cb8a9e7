//! What an access token says, as JSON: claims of RFC 9068 §2.2, some of our own, and those that policies set.
//!
//! What policies set stands beside ours and never in their place. Each name is there once, whoever it is from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::Unsigned;
use crate::ids::ClientId;

/// Names that a policy's claim never has: those below, and those by which others would believe who somebody is, how they
/// showed that, or whose key it takes (RFC 7519 §4.1, RFC 7800, RFC 8693, RFC 9068 §2.2, OpenID Connect Core §2).
const RESERVED: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "iat_ms",
    "nbf",
    "jti",
    "client_id",
    "scope",
    "principal",
    "grant",
    "epoch",
    "tools",
    "acr",
    "act",
    "amr",
    "at_hash",
    "auth_time",
    "azp",
    "cnf",
    "may_act",
    "nonce",
    "typ",
];

/// RFC 9068 §2.2, and some of our own.
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) aud: Audience,
    pub(super) exp: u64,
    pub(super) iat: u64,
    /// The same in milliseconds, since what is revoked is revoked to the millisecond: of two tokens of one second, one may
    /// be from before that and the other from after it. Without it, the second's beginning counts.
    pub(super) iat_ms: Option<u64>,
    pub(super) nbf: u64,
    pub(super) jti: String,
    pub(super) client_id: String,
    pub(super) scope: String,
    /// Kind of principal.
    pub(super) principal: String,
    pub(super) grant: String,
    pub(super) epoch: u64,
    /// Lists of patterns over `upstream/tool`, of each of which one has to fit. Not there without any.
    pub(super) tools: Vec<Vec<String>>,
    /// The key that whoever presents it has to prove (RFC 7800 §3, RFC 9449 §6.1).
    pub(super) cnf: Option<Confirmation>,
    /// Who acts in the client's place (RFC 8693 §4.1).
    pub(super) act: Option<Actor>,
    /// Of policies.
    pub(super) others: Members,
}

/// The thumbprint of a key, and nothing else: another method of confirmation would be one that nobody looks at.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Confirmation {
    pub(super) jkt: String,
}

/// A client that acts, in whose place it does so last.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Actor {
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Box<Actor>>,
}

impl Actor {
    /// The newest stands outermost.
    pub(super) fn chain(newest_first: &[ClientId]) -> Option<Self> {
        let inner_first = newest_first.iter().rev();
        inner_first.fold(None, |act, id| Some(Self { sub: id.as_str().to_owned(), act: act.map(Box::new) }))
    }

    /// All of them, newest first, if they are clients and no more than `most`.
    pub(super) fn ids(&self, most: usize) -> Option<Vec<ClientId>> {
        let chain = std::iter::successors(Some(self), |actor| actor.act.as_deref());
        let ids: Vec<ClientId> =
            chain.take(most + 1).map(|actor| ClientId::parse(&actor.sub)).collect::<Option<_>>()?;
        (ids.len() <= most).then_some(ids)
    }
}

/// Members of an object, by name.
pub(super) type Members = BTreeMap<String, Box<RawValue>>;

/// One text, or a list of them (RFC 7519 §4.1.3).
pub(super) struct Audience(pub(super) Vec<String>);

/// The claims that policies set, without those whose names are not theirs.
pub(super) fn others(object: &str) -> Result<Members, Unsigned> {
    let Object(mut members) = serde_json::from_str(object).map_err(|_| Unsigned::Claims)?;
    members.retain(|name, _| !RESERVED.contains(&name.as_str()));
    Ok(members)
}

/// The same as one object; none without any.
pub(super) fn object(others: &Members) -> Option<Arc<str>> {
    let text = || serde_json::to_string(others).expect("an object of JSON texts serialises");
    (!others.is_empty()).then(|| text().into())
}

impl Serialize for Claims {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("iss", &self.iss)?;
        map.serialize_entry("sub", &self.sub)?;
        map.serialize_entry("aud", &self.aud)?;
        map.serialize_entry("exp", &self.exp)?;
        map.serialize_entry("iat", &self.iat)?;
        if let Some(iat_ms) = &self.iat_ms {
            map.serialize_entry("iat_ms", iat_ms)?;
        }
        map.serialize_entry("nbf", &self.nbf)?;
        map.serialize_entry("jti", &self.jti)?;
        map.serialize_entry("client_id", &self.client_id)?;
        map.serialize_entry("scope", &self.scope)?;
        map.serialize_entry("principal", &self.principal)?;
        map.serialize_entry("grant", &self.grant)?;
        map.serialize_entry("epoch", &self.epoch)?;
        if !self.tools.is_empty() {
            map.serialize_entry("tools", &self.tools)?;
        }
        if let Some(cnf) = &self.cnf {
            map.serialize_entry("cnf", cnf)?;
        }
        if let Some(act) = &self.act {
            map.serialize_entry("act", act)?;
        }
        for (name, value) in &self.others {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object(mut members) = Object::deserialize(deserializer)?;
        Ok(Self {
            iss: required(&mut members, "iss")?,
            sub: required(&mut members, "sub")?,
            aud: required(&mut members, "aud")?,
            exp: required(&mut members, "exp")?,
            iat: required(&mut members, "iat")?,
            iat_ms: take(&mut members, "iat_ms")?,
            nbf: required(&mut members, "nbf")?,
            jti: required(&mut members, "jti")?,
            client_id: required(&mut members, "client_id")?,
            scope: required(&mut members, "scope")?,
            principal: required(&mut members, "principal")?,
            grant: required(&mut members, "grant")?,
            epoch: required(&mut members, "epoch")?,
            tools: take(&mut members, "tools")?.unwrap_or_default(),
            cnf: take(&mut members, "cnf")?,
            act: take(&mut members, "act")?,
            others: members,
        })
    }
}

fn required<T: DeserializeOwned, E: de::Error>(members: &mut Members, name: &'static str) -> Result<T, E> {
    take(members, name)?.ok_or_else(|| E::missing_field(name))
}

fn take<T: DeserializeOwned, E: de::Error>(members: &mut Members, name: &str) -> Result<Option<T>, E> {
    members.remove(name).map(|value| serde_json::from_str(value.get()).map_err(E::custom)).transpose()
}

/// An object that has each name once.
struct Object(Members);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Members::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if members.insert(name, value).is_some() {
                        return Err(de::Error::custom("a name is there twice"));
                    }
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

impl Serialize for Audience {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            all => all.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Audience;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, one: &str) -> Result<Audience, E> {
                Ok(Audience(vec![one.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Audience, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Audience(texts))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

//! What the values of settings are made of: each with its place in the file, and with its schema.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use toml::Spanned;

use crate::ids::{KeyName, SetName, UpstreamName};

/// A value and its place in the file.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct At<T>(Spanned<T>);

impl<T> At<T> {
    pub fn value(&self) -> &T {
        self.0.get_ref()
    }

    /// Bytes of the file that say it.
    pub fn place(&self) -> Range<usize> {
        self.0.span()
    }
}

impl<T: Ord> Ord for At<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value().cmp(other.value())
    }
}

impl<T: Ord> PartialOrd for At<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Ord> Eq for At<T> {}

/// A value that the file may leave out.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Setting<T>(Option<At<T>>);

impl<T> Setting<T> {
    pub fn get(&self) -> Option<&At<T>> {
        self.0.as_ref()
    }

    pub fn value(&self) -> Option<&T> {
        self.get().map(At::value)
    }
}

impl<T> Default for Setting<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// A name that is a key of a table, at most `MAX` characters long.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub struct Name<const MAX: usize>(At<String>);

impl<const MAX: usize> Name<MAX> {
    pub fn as_str(&self) -> &str {
        self.0.value()
    }

    pub fn place(&self) -> Range<usize> {
        self.0.place()
    }
}

/// Checked by [`UpstreamName`] later on.
pub type NameOfUpstream = Name<{ UpstreamName::MAX_LEN }>;

/// Checked by [`KeyName`] later on.
pub type NameOfKey = Name<{ KeyName::MAX_LEN }>;

/// Checked by [`SetName`] later on.
pub type NameOfSet = Name<{ SetName::MAX_LEN }>;

/// A length of time, such as `500ms` or `5m`.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Time(pub String);

/// A number of bytes, as a number or with a unit.
#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a size such as \"4MiB\", or a number of bytes")]
pub enum Size {
    Bytes(i64),
    Text(String),
}

/// A moment, as a TOML date and time or as text.
pub struct Moment(pub String);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Moment;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a date and time such as \"2027-01-01T00:00:00Z\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Moment, E> {
                Ok(Moment(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Moment, A::Error> {
                let datetime = toml::value::Datetime::deserialize(MapAccessDeserializer::new(map));
                datetime
                    .map(|datetime| Moment(datetime.to_string()))
                    .map_err(|_| A::Error::invalid_type(serde::de::Unexpected::Map, &self))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The schema of a wrapper is that of what it wraps.
macro_rules! schema_of_inner {
    ($($wrapper:ident),*) => {$(
        impl<T: JsonSchema> JsonSchema for $wrapper<T> {
            fn inline_schema() -> bool {
                T::inline_schema()
            }
            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }
            fn schema_id() -> Cow<'static, str> {
                T::schema_id()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }
        }
    )*};
}

schema_of_inner!(At, Setting);

/// Schemas that stand where they are used, so that a field's own description and default are next to them.
macro_rules! inline_schemas {
    ($([$($generics:tt)*] $type:ty => $name:literal, $schema:expr;)*) => {$(
        impl<$($generics)*> JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

inline_schemas! {
    [const MAX: usize] Name<MAX> => "Name", json_schema!({
        "type": "string",
        "pattern": format!("^[a-z0-9][a-z0-9-]{{0,{}}}$", MAX - 1),
    });
    [] Time => "Time", json_schema!({
        "type": "string",
        "pattern": r"^\s*[0-9][0-9.\s]*[a-zA-Zµ]+(\s*[0-9][0-9.\s]*[a-zA-Zµ]+)*\s*$",
    });
    [] Size => "Size", json_schema!({
        "type": ["integer", "string"],
        "minimum": 1,
        "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)?$",
    });
    [] Moment => "Moment", json_schema!({ "type": "string", "format": "date-time" });
}

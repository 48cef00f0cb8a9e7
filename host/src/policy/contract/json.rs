//! Members that hold a JSON value: text for component values, the value itself in JSON. For `#[serde(with = …)]`.

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::value::RawValue;

pub(in crate::policy) fn serialize<T: AsRef<str>, S: Serializer>(text: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let value: &RawValue = serde_json::from_str(text.as_ref()).map_err(S::Error::custom)?;
    value.serialize(serializer)
}

pub(in crate::policy) fn deserialize<'de, T: From<String>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    // By way of a value, since the deserializer may itself stand on one (as within enums).
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(T::from(value.to_string()))
}

/// A JSON object without members, for what is left out.
pub(in crate::policy) fn empty_object<T: From<String>>() -> T {
    T::from("{}".to_owned())
}

/// The same for members that may be absent.
pub(in crate::policy) mod option {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::policy) fn serialize<T: AsRef<str>, S: Serializer>(
        text: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        let text = text.as_ref().map(AsRef::as_ref);
        let value = text.map(serde_json::from_str::<&serde_json::value::RawValue>).transpose();
        value.map_err(S::Error::custom)?.serialize(serializer)
    }

    pub(in crate::policy) fn deserialize<'de, T: From<String>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let value = Option::<serde_json::Value>::deserialize(deserializer)?;
        Ok(value.map(|value| T::from(value.to_string())))
    }
}

/// Flags as a list of their names.
macro_rules! flag_names {
    ($flags:ident { $($flag:ident = $name:literal,)* }) => {
        impl $flags {
            const NAMES: &[(Self, &'static str)] = &[$((Self::$flag, $name)),*];

            /// The names of what is set.
            pub(in crate::policy) fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().filter(move |(flag, _)| self & *flag == *flag).map(|(_, name)| *name)
            }
        }

        impl serde::Serialize for $flags {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.names())
            }
        }

        impl<'de> serde::Deserialize<'de> for $flags {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let names = Vec::<String>::deserialize(deserializer)?;
                names.iter().try_fold(Self::default(), |flags, name| {
                    let known = Self::NAMES.iter().find(|(_, known)| known == name);
                    let (flag, _) = known.ok_or_else(|| {
                        let known: Vec<&str> = Self::NAMES.iter().map(|(_, name)| *name).collect();
                        serde::de::Error::custom(format!("unknown flag {name:?}, expected one of {}", known.join(", ")))
                    })?;
                    Ok(flags | *flag)
                })
            }
        }
    };
}

pub(in crate::policy) use flag_names;

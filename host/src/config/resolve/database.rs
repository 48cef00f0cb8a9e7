//! Where the store is: a file, a PostgreSQL database, or nowhere.
//!
//! A URL of a database is read here and nowhere else, so that no other part has to keep its password out of a message. What
//! is said of one that is wrong never quotes it.

use std::path::Path;

use super::{Checks, is_path};
use crate::config::mistake::{Checked, Fault};
use crate::config::raw;
use crate::config::reference::{Reference, Secrets};
use crate::config::{Postgres, PostgresHost, SslMode, StoreUrl};
use crate::secret::Plaintext;

/// The port of a server whose port is not given.
const PORT: u16 = 5432;
/// The schema that is used where none is given.
const SCHEMA: &str = "portcullis";
/// Longest name of anything in PostgreSQL, in bytes.
const LONGEST_NAME: usize = 63;
/// Hosts that one URL may name.
const MOST_HOSTS: usize = 8;

const FORMS: &str = "write \"redb:PATH\", \"postgres://USER@HOST/DATABASE\" or \"memory:\"";

impl StoreUrl {
    /// Reads it as it stands in the configuration; paths in it are relative to `base`.
    ///
    /// # Errors
    /// What is wrong with it, in words that go on from its name. They never quote it: there may be a password in it.
    pub fn parse(text: &str, base: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        parse(&Secrets { base_dir: base, environment, sealed: None }, text).map_err(|fault| match fault.hint {
            Some(hint) => format!("{}: {hint}", fault.message),
            None => fault.message,
        })
    }
}

pub(super) fn resolve(checks: &mut Checks<'_>, raw: &raw::Store, data_dir: &Path) -> StoreUrl {
    let secrets = Secrets { base_dir: checks.secrets.base_dir, environment: checks.secrets.environment, sealed: None };
    let url = checks.setting("store.url", &raw.url, |text| parse(&secrets, text));
    let password = checks.setting("store.password", &raw.password, |text| password(&secrets, text));
    let mut url = url.unwrap_or_else(|| StoreUrl::Redb(data_dir.join("portcullis.redb")));
    if let Some(at) = raw.password.get() {
        match &mut url {
            StoreUrl::Postgres(database) if database.password.is_none() => database.password = password,
            StoreUrl::Postgres(_) => checks.mistake(at.place(), Fault::new("store.url has a password already")),
            StoreUrl::Redb(_) | StoreUrl::Memory => {
                checks.mistake(at.place(), Fault::new("store.password is for a store in PostgreSQL only"));
            }
        }
    }
    url
}

fn password(secrets: &Secrets<'_>, text: &str) -> Checked<Plaintext> {
    let must = || {
        let hint = "keep the password out of this file and write \"env:NAME\" or \"file:PATH\"";
        Fault::new("must be a reference").hint(hint)
    };
    secrets.fetch(Reference::parse(text).ok_or_else(must)?)
}

fn parse(secrets: &Secrets<'_>, text: &str) -> Checked<StoreUrl> {
    if let Some(reference) = Reference::parse(text) {
        return plain(secrets, secrets.fetch(reference)?.expose());
    }
    let url = plain(secrets, text)?;
    match &url {
        StoreUrl::Postgres(database) if database.password.is_some() => {
            let hint = "set store.password to \"env:NAME\" or \"file:PATH\", or refer to the whole URL in that way";
            Err(Fault::new("has a password in it").hint(hint))
        }
        _ => Ok(url),
    }
}

fn plain(secrets: &Secrets<'_>, text: &str) -> Checked<StoreUrl> {
    match text.split_once(':') {
        Some(("redb", path)) if is_path(path) => Ok(StoreUrl::Redb(secrets.base_dir.join(path))),
        Some(("memory", "")) => Ok(StoreUrl::Memory),
        Some(("postgres" | "postgresql", rest)) => database(secrets, rest).map(StoreUrl::Postgres),
        _ => Err(Fault::new("is not a store").hint(FORMS)),
    }
}

/// What follows `postgres:` (PostgreSQL's manual, "Connection URIs").
fn database(secrets: &Secrets<'_>, rest: &str) -> Checked<Postgres> {
    let wrong = |problem: &str| Fault::new(problem).hint("write it like \"postgres://USER@HOST:PORT/DATABASE\"");
    let rest = rest.strip_prefix("//").ok_or_else(|| wrong("is not the URL of a database"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').ok_or_else(|| wrong("names no user"))?;
    let (user, password) = match user.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (user, None),
    };
    let user = decoded(user).filter(|user| !user.is_empty()).ok_or_else(|| wrong("names no user"))?;
    let name = decoded(name).filter(|name| !name.is_empty()).ok_or_else(|| wrong("names no database"))?;
    let password =
        password.map(|password| decoded(password).ok_or_else(|| wrong("has a password that is not encoded")));
    let hosts: Vec<PostgresHost> =
        hosts.split(',').map(|text| host(text).ok_or_else(|| wrong("names no host"))).collect::<Checked<_>>()?;
    if hosts.len() > MOST_HOSTS {
        return Err(Fault::new(format!("names more than {MOST_HOSTS} hosts")));
    }
    let mut database = Postgres {
        hosts,
        user,
        password: password.transpose()?.filter(|password| !password.is_empty()).map(Plaintext::new),
        name,
        schema: SCHEMA.to_owned(),
        ssl_mode: SslMode::Prefer,
        ssl_root: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value).ok_or_else(|| wrong("has a parameter that is not encoded"))?;
        parameter(secrets, &mut database, key, value)?;
    }
    if database.ssl_root.is_some() && database.ssl_mode == SslMode::Require {
        // As PostgreSQL's own clients understand it.
        database.ssl_mode = SslMode::VerifyCa;
    }
    Ok(database)
}

fn parameter(secrets: &Secrets<'_>, database: &mut Postgres, key: &str, value: String) -> Checked<()> {
    match key {
        "sslmode" => {
            database.ssl_mode = match value.as_str() {
                "disable" => SslMode::Disable,
                "prefer" => SslMode::Prefer,
                "require" => SslMode::Require,
                "verify-ca" => SslMode::VerifyCa,
                "verify-full" => SslMode::VerifyFull,
                _ => {
                    let hint = "write disable, prefer, require, verify-ca or verify-full";
                    return Err(Fault::new("has an sslmode that is not known").hint(hint));
                }
            };
        }
        // What the operating system trusts, which is what holds without this parameter.
        "sslrootcert" if value == "system" => {}
        "sslrootcert" => {
            let path = secrets.base_dir.join(value);
            if !path.is_file() {
                return Err(Fault::new(format!("has an sslrootcert, {}, that is not a file", path.display())));
            }
            database.ssl_root = Some(path);
        }
        "schema" => {
            let is_first = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            let is_name = value.bytes().next().is_some_and(is_first)
                && value.bytes().all(|byte| is_first(byte) || byte.is_ascii_digit())
                && value.len() <= LONGEST_NAME
                && !value.starts_with("pg_");
            if !is_name {
                let hint = "write up to 63 of a-z 0-9 _, no digit first";
                return Err(Fault::new("has a schema that cannot be one").hint(hint));
            }
            database.schema = value;
        }
        _ => {
            let hint = "sslmode, sslrootcert and schema are";
            return Err(Fault::new("has a parameter that is not known here").hint(hint));
        }
    }
    Ok(())
}

/// A name or an address with an optional port, or the encoded path of a socket's directory.
fn host(text: &str) -> Option<PostgresHost> {
    let (name, port) = match text.rsplit_once(':') {
        // A colon inside of brackets belongs to the address.
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok().filter(|port| *port != 0)?),
        _ => (text, PORT),
    };
    let name = decoded(name)?;
    if name.starts_with('/') {
        return Some(PostgresHost::Unix { directory: name.into(), port });
    }
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        return Some(PostgresHost::Tcp { name: address.to_string(), port });
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_name)).then_some(PostgresHost::Tcp { name, port })
}

/// Text with its percent-encoding taken off (RFC 3986 §2.1), if that is text without NUL.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Checked<StoreUrl> {
        let environment = |name: &str| match name {
            "DATABASE_URL" => Some("postgres://me:hunter2@db/store".to_owned()),
            "STORE" => Some("redb:data/store".to_owned()),
            _ => None,
        };
        parse(&Secrets { base_dir: Path::new("/etc/portcullis"), environment: &environment, sealed: None }, text)
    }

    fn postgres(text: &str) -> Postgres {
        match read(text) {
            Ok(StoreUrl::Postgres(database)) => database,
            Ok(other) => panic!("{text}: {other:?}"),
            Err(fault) => panic!("{text}: {}", fault.message),
        }
    }

    fn tcp(name: &str, port: u16) -> PostgresHost {
        PostgresHost::Tcp { name: name.to_owned(), port }
    }

    #[test]
    fn a_database_is_read_from_its_url() {
        let expected = Postgres {
            hosts: vec![tcp("db.internal", 5432)],
            user: "me".to_owned(),
            password: None,
            name: "store".to_owned(),
            schema: "portcullis".to_owned(),
            ssl_mode: SslMode::Prefer,
            ssl_root: None,
        };
        assert_eq!(postgres("postgres://me@db.internal/store"), expected);
        let referred = postgres("env:DATABASE_URL");
        assert_eq!(referred.password, Some(Plaintext::new("hunter2")));
        assert!(!format!("{referred:?}").contains("hunter2"));
        assert_eq!(read("env:STORE").ok(), Some(StoreUrl::Redb("/etc/portcullis/data/store".into())));

        let full =
            postgres("postgresql://m%40e@a:1,[::1],[fe80::2]:2,%2Frun%2Fpg:3/s%20t?sslmode=verify-full&schema=two");
        let socket = PostgresHost::Unix { directory: "/run/pg".into(), port: 3 };
        assert_eq!(full.hosts, [tcp("a", 1), tcp("::1", 5432), tcp("fe80::2", 2), socket]);
        assert_eq!((full.user.as_str(), full.name.as_str(), full.schema.as_str()), ("m@e", "s t", "two"));
        assert_eq!((full.ssl_mode, full.ssl_root), (SslMode::VerifyFull, None));
    }

    #[test]
    fn an_authority_makes_require_a_verification() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let required = postgres(&format!("postgres://me@db/store?sslmode=require&sslrootcert={path}"));
        assert_eq!((required.ssl_mode, required.ssl_root.as_deref()), (SslMode::VerifyCa, Some(file.path())));
        assert_eq!(postgres("postgres://me@db/store?sslmode=require&sslrootcert=system").ssl_mode, SslMode::Require);
    }

    #[test]
    fn what_is_wrong_is_told_and_never_quoted() {
        for (text, told) in [
            ("postgres:me@db/store", "is not the URL of a database"),
            ("postgres://db/store", "names no user"),
            ("postgres://@db/store", "names no user"),
            ("postgres://me@db", "names no database"),
            ("postgres://me@db/?sslmode=require", "names no database"),
            ("postgres://me@/store", "names no host"),
            ("postgres://me@a,/store", "names no host"),
            ("postgres://me@a:0/store", "names no host"),
            ("postgres://me@a:65536/store", "names no host"),
            ("postgres://me@[::1/store", "names no host"),
            ("postgres://me@[a]/store", "names no host"),
            ("postgres://me@a b/store", "names no host"),
            ("postgres://me@a,a,a,a,a,a,a,a,a/store", "names more than 8 hosts"),
            ("postgres://me:hunter2@db/store", "has a password in it"),
            ("postgres://me:hunter%2@db/store", "has a password that is not encoded"),
            ("postgres://me:hunter%00@db/store", "has a password that is not encoded"),
            ("postgres://me@db/store?sslmode=on", "has an sslmode that is not known"),
            ("postgres://me@db/store?sslrootcert=/nowhere", "has an sslrootcert, /nowhere, that is not a file"),
            ("postgres://me@db/store?password=hunter2", "has a parameter that is not known here"),
            ("postgres://me@db/store?schema=Public", "has a schema that cannot be one"),
            ("postgres://me@db/store?schema=1", "has a schema that cannot be one"),
            ("postgres://me@db/store?schema=pg_catalog", "has a schema that cannot be one"),
            ("postgres://me@db/store?schema=a;drop", "has a schema that cannot be one"),
            ("mysql://me:hunter2@db/store", "is not a store"),
            ("env:UNSET", "refers to the environment variable UNSET, which is not set"),
        ] {
            let Err(fault) = read(text) else { panic!("{text} was read") };
            assert_eq!(fault.message, told, "{text}");
            assert!(!format!("{:?}", fault.hint).contains("hunter"), "{text}");
        }
    }
}

//! `portcullis user`: people's accounts, through the admin socket.

use std::io::{self, Read as _};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::{Map, Value, json};

use super::WithConfig;
use super::admin::{Paged, ask, filtered, segment, table, text, words};
use super::output;
use crate::env::Env;
use crate::secret::Plaintext;

/// Longest password that is read, in bytes.
const MAX_PASSWORD: u64 = 4096;

#[derive(Subcommand)]
pub(super) enum UserCommand {
    /// Make an account. Its password is read, or drawn and shown once.
    Add {
        /// What the person types to sign in.
        login: String,
        /// The name that is shown.
        #[arg(long)]
        name: Option<String>,
        /// An e-mail address, by which an identity provider's person finds an account that is invited.
        #[arg(long)]
        email: Option<String>,
        /// What it may do here.
        #[arg(long, value_enum, default_value_t = RoleName::User)]
        role: RoleName,
        /// A group, for policies to read. May be given several times.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// Read the password from standard input, without the line's end.
        #[arg(long, conflicts_with = "no_password")]
        password_stdin: bool,
        /// Make an account without a password, for somebody who signs in through an identity provider.
        #[arg(long, requires = "email")]
        no_password: bool,
        #[command(flatten)]
        with: WithConfig,
    },
    /// List accounts, newest first.
    List {
        /// Only those that may do this.
        #[arg(long, value_enum)]
        role: Option<RoleName>,
        /// Only those that are invited, active, suspended or deleted.
        #[arg(long)]
        status: Option<String>,
        /// Only those with this in their name, their login or their address.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        #[command(flatten)]
        page: Paged,
    },
    /// Show one account, with how identity providers know its person and where they are signed in.
    Show(OneUser),
    /// Change what an account is called, may do and belongs to. What is not given stays; what is given takes the place of what was.
    Set(Box<SetUser>),
    /// Let an account open nothing until it is activated; its grants are revoked and its browsers signed out.
    Suspend(OneUser),
    /// Let an account open what it may.
    Activate(OneUser),
    /// Give an account another password, and sign its browsers out.
    SetPassword {
        /// Read the password from standard input, without the line's end. Otherwise one is drawn and shown once.
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        user: OneUser,
    },
    /// Delete an account with everything that was granted in its name.
    Remove(OneUser),
    /// Look after the browsers where somebody is signed in.
    #[command(subcommand)]
    Sessions(SessionsCommand),
}

#[derive(Subcommand)]
pub(super) enum SessionsCommand {
    /// Sign somebody out everywhere.
    End(OneUser),
}

#[derive(clap::Args)]
pub(super) struct OneUser {
    /// The login, or the id.
    login: String,
    #[command(flatten)]
    with: WithConfig,
}

#[derive(clap::Args)]
pub(super) struct SetUser {
    /// The name that is shown.
    #[arg(long, conflicts_with = "no_name")]
    name: Option<String>,
    /// It has no name any more.
    #[arg(long)]
    no_name: bool,
    /// What the person types to sign in from now on.
    #[arg(long, value_name = "LOGIN")]
    new_login: Option<String>,
    /// An e-mail address, by which an identity provider's person finds an account that is invited.
    #[arg(long, conflicts_with = "no_email")]
    email: Option<String>,
    /// It has no e-mail address.
    #[arg(long)]
    no_email: bool,
    /// What it may do here. One that opens less than before is signed out.
    #[arg(long, value_enum)]
    role: Option<RoleName>,
    /// A group, for policies to read, in the place of those that there are. May be given several times.
    #[arg(long = "group", value_name = "GROUP", conflicts_with = "no_groups")]
    groups: Vec<String>,
    /// It is in no groups.
    #[arg(long)]
    no_groups: bool,
    #[command(flatten)]
    user: OneUser,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum RoleName {
    User,
    Viewer,
    Operator,
    Owner,
}

impl RoleName {
    const fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }
}

impl UserCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Add { login, name, email, role, groups, password_stdin, no_password, with } => {
                let password = if no_password { None } else { Some(Chosen::read(password_stdin)?) };
                let user = json!({
                    "login": login, "name": name, "email": email, "role": role.word(), "groups": groups,
                    "password": password.as_ref().map(Chosen::expose),
                });
                let user = ask(&with, Method::POST, "/api/v1/users", Some(user))?;
                let done = format!("{} is {}", text(&user["login"]), text(&user["status"]));
                tell(&with, user, &done, password.as_ref())
            }
            Self::List { role, status, search, page } => {
                let role = role.map(|role| role.word().to_owned());
                list(&page, &filtered("/api/v1/users", &[("role", role), ("status", status), ("q", search)])?)
            }
            Self::Show(one) => show(&one),
            Self::Set(set) => {
                let (patch, one) = (set.patch()?, &set.user);
                let answer = ask(&one.with, Method::PATCH, &one.path()?, Some(patch))?;
                output::tell(&one.with, &answer, |_| format!("{} is changed", one.login))
            }
            Self::Suspend(one) => set_status(&one, "suspended"),
            Self::Activate(one) => set_status(&one, "active"),
            Self::SetPassword { password_stdin, user } => {
                let (path, password) = (user.path()?, Chosen::read(password_stdin)?);
                let answer = ask(&user.with, Method::PATCH, &path, Some(json!({ "password": password.expose() })))?;
                tell(&user.with, answer, &format!("{} has another password", user.login), Some(&password))
            }
            Self::Remove(one) => {
                let answer = ask(&one.with, Method::DELETE, &one.path()?, None)?;
                output::tell(&one.with, &answer, |_| format!("{} is deleted", one.login))
            }
            Self::Sessions(SessionsCommand::End(one)) => {
                let answer = ask(&one.with, Method::DELETE, &format!("{}/sessions", one.path()?), None)?;
                let told = |answer: &Value| format!("{} is signed out of {} browsers", one.login, answer["ended"]);
                output::tell(&one.with, &answer, told)
            }
        }
    }
}

/// A password that was read, or drawn.
struct Chosen {
    password: Plaintext,
    is_drawn: bool,
}

impl Chosen {
    fn read(from_stdin: bool) -> anyhow::Result<Self> {
        if !from_stdin {
            return Ok(Self { password: draw(&Env::system()), is_drawn: true });
        }
        let mut password = String::new();
        io::stdin().take(MAX_PASSWORD).read_to_string(&mut password).context("cannot read the password")?;
        let text = password.strip_suffix('\n').unwrap_or(&password);
        Ok(Self { password: Plaintext::new(text.strip_suffix('\r').unwrap_or(text)), is_drawn: false })
    }

    fn expose(&self) -> &str {
        self.password.expose()
    }
}

/// Letters and digits that are not taken for one another: 32 of them, so that each is five bits.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// 100 random bits in groups that can be read aloud.
fn draw(env: &Env) -> Plaintext {
    let letters = env.random::<20>().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
    let groups: Vec<String> = letters.chunks(5).map(|group| group.iter().collect()).collect();
    Plaintext::new(groups.join("-"))
}

/// What was done, and the password where nobody knows it yet.
fn tell(with: &WithConfig, mut answer: Value, done: &str, password: Option<&Chosen>) -> anyhow::Result<()> {
    let Some(drawn) = password.filter(|password| password.is_drawn) else {
        return output::tell(with, &answer, |_| done.to_owned());
    };
    // The gateway does not repeat what it was told, and nobody else knows it.
    answer["password"] = drawn.expose().into();
    let told = |_: &Value| format!("{done}\n{}\nThis is the password. It is shown once.", drawn.expose());
    output::tell(with, &answer, told)
}

impl OneUser {
    /// The account's own path in the API.
    fn path(&self) -> anyhow::Result<String> {
        Ok(format!("/api/v1/users/{}", segment(&id_of(&self.with, &self.login)?)?))
    }
}

impl SetUser {
    /// What is to be otherwise, as a merge patch.
    fn patch(&self) -> anyhow::Result<Value> {
        let Self { name, no_name, new_login, email, no_email, role, groups, no_groups, user: _ } = self;
        let mut patch = Map::new();
        for (member, value, is_none) in
            [("name", name, *no_name), ("login", new_login, false), ("email", email, *no_email)]
        {
            if is_none || value.is_some() {
                patch.insert(member.to_owned(), json!(value));
            }
        }
        if let Some(role) = role {
            patch.insert("role".to_owned(), json!(role.word()));
        }
        if *no_groups || !groups.is_empty() {
            patch.insert("groups".to_owned(), json!(groups));
        }
        if patch.is_empty() {
            bail!("nothing to change: say what, such as --role, --group or --email");
        }
        Ok(Value::Object(patch))
    }
}

/// The id of whoever has this login, or this id.
pub(super) fn id_of(with: &WithConfig, login: &str) -> anyhow::Result<String> {
    let answer = ask(with, Method::GET, &format!("/api/v1/users?login={}", segment(login)?), None)?;
    let found = answer["users"].get(0).map(|user| text(&user["id"]).to_owned());
    // An id is 24 hexadecimal digits; what else is none is a login that nobody has.
    let is_id = login.len() == 24 && login.bytes().all(|byte| byte.is_ascii_hexdigit());
    match found {
        Some(id) => Ok(id),
        None if is_id => Ok(login.to_owned()),
        None => bail!("nobody has the login {login:?}"),
    }
}

fn set_status(one: &OneUser, status: &str) -> anyhow::Result<()> {
    let answer = ask(&one.with, Method::PATCH, &one.path()?, Some(json!({ "status": status })))?;
    output::tell(&one.with, &answer, |_| format!("{} is {status}", one.login))
}

fn list(page: &Paged, path: &str) -> anyhow::Result<()> {
    let row = |user: &Value| {
        let cell = |name: &str| text(&user[name]).to_owned();
        let last = user["last_sign_in"].as_str().unwrap_or("never").to_owned();
        vec![
            cell("login"),
            cell("name"),
            cell("email"),
            cell("role"),
            cell("status"),
            words(&user["groups"]),
            last,
            cell("id"),
        ]
    };
    let head = ["LOGIN", "NAME", "E-MAIL", "ROLE", "STATUS", "GROUPS", "LAST SIGN-IN", "ID"];
    page.tell(path, "users", |users| table(&head, users.iter().map(row)))
}

fn show(one: &OneUser) -> anyhow::Result<()> {
    let path = one.path()?;
    let mut user = ask(&one.with, Method::GET, &path, None)?;
    let mut sessions = ask(&one.with, Method::GET, &format!("{path}/sessions"), None)?;
    // Two answers in one.
    user["sessions"] = sessions["sessions"].take();
    output::tell(&one.with, &user, in_full)
}

fn in_full(user: &Value) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for name in ["id", "login", "name", "email", "role", "status", "created", "last_sign_in"] {
        rows.push(vec![name.replace('_', " "), text(&user[name]).to_owned()]);
    }
    rows.push(vec!["groups".to_owned(), words(&user["groups"])]);
    rows.push(vec!["password".to_owned(), if user["has_password"] == true { "set" } else { "none" }.to_owned()]);
    for identity in user["identities"].as_array().into_iter().flatten() {
        let known_as = format!("{} at {}", text(&identity["subject"]), text(&identity["issuer"]));
        rows.push(vec!["known as".to_owned(), known_as]);
    }
    for session in user["sessions"].as_array().into_iter().flatten() {
        let since =
            format!("{} ({}), {}", text(&session["created"]), text(&session["method"]), text(&session["agent"]));
        rows.push(vec!["signed in".to_owned(), since]);
    }
    table(&[], rows.into_iter())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::authorization::passwords::check_rules;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: UserCommand,
    }

    fn patch(arguments: &[&str]) -> anyhow::Result<Value> {
        let line = Line::try_parse_from(["user", "set", "ada"].iter().chain(arguments))?;
        let UserCommand::Set(set) = line.command else { panic!("another command") };
        set.patch()
    }

    #[test]
    fn what_is_given_changes_and_nothing_else() {
        for (arguments, expected) in [
            (&["--role", "operator"][..], json!({ "role": "operator" })),
            (&["--group", "ops", "--group", "dev"], json!({ "groups": ["ops", "dev"] })),
            (&["--no-groups", "--name", "Ada"], json!({ "groups": [], "name": "Ada" })),
            (&["--email", "ada@example.com", "--no-name"], json!({ "email": "ada@example.com", "name": null })),
            (&["--no-email", "--new-login", "lovelace"], json!({ "email": null, "login": "lovelace" })),
        ] {
            assert_eq!(patch(arguments).unwrap(), expected, "{arguments:?}");
        }
        for wrong in [&[][..], &["--role", "king"], &["--group", "ops", "--no-groups"], &["--name", "A", "--no-name"]] {
            assert!(patch(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_drawn_password_will_do_and_is_another_one_each_time() {
        let env = Env::system();
        let (one, other) = (draw(&env), draw(&env));
        assert!(one != other && one.expose().len() == 23);
        assert_eq!(check_rules(&one, None), Ok(()));
    }
}

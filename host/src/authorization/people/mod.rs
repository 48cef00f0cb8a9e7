//! How people sign in with a password, how a browser stays signed in, and how either ends.
//!
//! A browser gets a new cookie whenever somebody signs in, and the one before is dead (`docs/threat-model.md` row A14).
//! Whether a login is unknown, suspended, without a password or mistyped is told to nobody and takes as long (row T19).

use std::net::IpAddr;
use std::time::Duration;

use super::backoff::Wait;
use super::mint::{self, mint};
use super::passwords::{self, Passwords, Weak};
use super::{AuthorizationServer, Fault};
use crate::audit::Actor;
use crate::config::auth::SignIn;
use crate::identity::browser::{BrowserSession, Method, Surface};
use crate::identity::user::{Login, Role, User};
use crate::ids::{BrowserSessionId, UserId, UserTag};
use crate::secret::{Digest, Plaintext};
use crate::store::browser_sessions::{self, Beginning, Ending, NewSession, Rotation, SEEN_STEP};
use crate::store::users;

/// How often an account may change while somebody signs in.
const TRIES: usize = 3;
/// Longest rest of a session of an operator.
pub const ADMIN_IDLE: Duration = Duration::from_secs(60 * 60);
/// Longest life of a session of an operator.
pub const ADMIN_LIFE: Duration = Duration::from_secs(12 * 60 * 60);

/// The browser in which somebody signs in.
#[derive(Clone, Debug)]
pub struct Browser {
    /// Digest of the cookie that it had, which is dead from now on.
    pub replaces: Option<Digest>,
    /// What it says it is.
    pub agent: String,
    /// Which pages it is to open.
    pub surface: Surface,
}

/// What somebody typed, and from where.
#[derive(Debug)]
pub struct Attempt {
    pub login: String,
    pub password: Plaintext,
    pub address: Option<IpAddr>,
    pub browser: Browser,
}

/// A browser in which somebody has just signed in.
#[derive(Debug)]
pub struct Begun {
    pub cookie: Plaintext,
    pub session: BrowserSession,
}

/// What came of [`AuthorizationServer::sign_in`].
#[derive(Debug)]
pub enum SignedIn {
    Begun(Box<Begun>),
    /// No account that is open has this login and this password.
    Refused,
    /// Too many tries failed: not before this has passed.
    Wait(Duration),
    /// Nobody signs in with a password here.
    Off,
    /// The login and the password are right, and open nothing on this surface.
    NotAdmitted,
}

/// What came of [`AuthorizationServer::show_again`].
#[derive(Debug)]
pub enum ShownAgain {
    /// The session goes on, under a new cookie.
    Renewed(Box<Begun>),
    WrongPassword,
    Wait(Duration),
    /// There is no password to show, or nobody signs in with one here.
    Off,
    /// The session has ended meanwhile.
    Gone,
}

/// What came of [`AuthorizationServer::change_password`].
#[derive(Debug)]
pub enum Changed {
    /// Every other browser is signed out, and this one has a new cookie.
    Changed(Box<Begun>),
    /// The password is a new one, and the browser has to sign in with it.
    SignInAgain,
    WrongPassword,
    Weak(Weak),
    Wait(Duration),
    /// There is no password to change.
    HasNone,
}

impl AuthorizationServer {
    /// Signs somebody in with a password.
    ///
    /// # Errors
    /// A [`Fault`], which says nothing about the password.
    pub async fn sign_in(&self, attempt: Attempt) -> Result<SignedIn, Fault> {
        if !self.settings().sign_in.passwords {
            return Ok(SignedIn::Off);
        }
        let Attempt { login, password, address, browser } = attempt;
        let charged = match self.backoff.begin(&login, address, self.env.now()) {
            Ok(charged) => charged,
            Err(Wait(wait)) => return Ok(SignedIn::Wait(wait)),
        };
        let user = match self.user_with(Login::parse(&login), password).await {
            Ok(Some(user)) => user,
            Ok(None) => return Ok(SignedIn::Refused),
            Err(fault) => {
                self.backoff.take_back(charged);
                return Err(fault);
            }
        };
        if !is_admitted(&user, browser.surface) {
            self.backoff.succeeded(charged);
            return Ok(SignedIn::NotAdmitted);
        }
        let begun = match self.begin_session(&user, Method::Password, browser).await {
            Ok(Some(begun)) => begun,
            Ok(None) => return Ok(SignedIn::Refused),
            Err(fault) => {
                self.backoff.take_back(charged);
                return Err(fault);
            }
        };
        self.backoff.succeeded(charged);
        Ok(SignedIn::Begun(Box::new(begun)))
    }

    /// The open account that has this login and this password.
    async fn user_with(&self, login: Option<Login>, password: Plaintext) -> Result<Option<User>, Fault> {
        let found = match &login {
            Some(login) => users::by_login(&self.store, login).await?,
            None => None,
        };
        let user = found.filter(User::is_active);
        let kept = user.as_ref().and_then(|user| user.password.as_ref());
        if !self.passwords.verify(password.clone(), kept).await? {
            return Ok(None);
        }
        if let Some(user) = &user
            && kept.is_some_and(Passwords::is_outdated)
        {
            let stronger = self.passwords.hash(password).await?;
            users::strengthen(&self.store, &user.id, user.revision, stronger).await?;
        }
        Ok(user)
    }

    /// Signs in somebody who has shown who they are, as `user` was then. `None` if the account opens nothing any more, or
    /// nothing on this surface.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn begin_session(&self, user: &User, method: Method, browser: Browser) -> Result<Option<Begun>, Fault> {
        let settings = self.settings();
        let (idle, life) = lives(&settings.sign_in, browser.surface);
        let mut user = user.clone();
        for _ in 0..TRIES {
            if !is_admitted(&user, browser.surface) {
                return Ok(None);
            }
            let cookie = mint(&self.env, mint::COOKIE);
            let new = NewSession {
                id: BrowserSessionId::generate(&self.env),
                user: user.id.clone(),
                seen: user.revision,
                digest: cookie.digest(),
                replaces: browser.replaces,
                surface: browser.surface,
                method: method.clone(),
                shown: None,
                idle,
                life,
                agent: browser.agent.clone(),
            };
            match browser_sessions::begin(&self.store, new).await? {
                Beginning::Begun(session) => return Ok(Some(Begun { cookie, session: *session })),
                Beginning::NotActive => return Ok(None),
                Beginning::Changed => {}
            }
            // What was shown still counts if it was nothing that has changed.
            let now = users::get(&self.store, &user.id).await?;
            let Some(now) = now.filter(|now| now.is_active() && now.password == user.password) else { return Ok(None) };
            user = now;
        }
        Err(Fault::Busy)
    }

    /// Takes the password of somebody who is signed in and shows once more that it is them. Their session stays the same one,
    /// and its cookie is a new one.
    ///
    /// # Errors
    /// A [`Fault`], which says nothing about the password.
    pub async fn show_again(
        &self,
        (session, user): (&BrowserSession, &User),
        password: Plaintext,
        address: Option<IpAddr>,
    ) -> Result<ShownAgain, Fault> {
        let (Some(kept), Some(login)) = (&user.password, &user.login) else { return Ok(ShownAgain::Off) };
        if !self.settings().sign_in.passwords {
            return Ok(ShownAgain::Off);
        }
        let charged = match self.backoff.begin(login.as_str(), address, self.env.now()) {
            Ok(charged) => charged,
            Err(Wait(wait)) => return Ok(ShownAgain::Wait(wait)),
        };
        match self.passwords.verify(password, Some(kept)).await {
            Ok(true) => self.backoff.succeeded(charged),
            Ok(false) => return Ok(ShownAgain::WrongPassword),
            Err(fault) => {
                self.backoff.take_back(charged);
                return Err(fault);
            }
        }
        // Another password ends every session, so that one that lives still goes with this one.
        let cookie = mint(&self.env, mint::COOKIE);
        let proof = Some(Method::Password);
        Ok(match browser_sessions::rotate(&self.store, session.digest, cookie.digest(), proof).await? {
            Rotation::Rotated(session) => ShownAgain::Renewed(Box::new(Begun { cookie, session: *session })),
            Rotation::Gone => ShownAgain::Gone,
        })
    }

    /// Whether somebody has shown so lately who they are that they may do what shows or makes a secret, or cannot be undone
    /// (`docs/threat-model.md` row H10).
    pub fn is_fresh(&self, session: &BrowserSession) -> bool {
        self.env.now() < session.authenticated.after(self.settings().operators.step_up_after)
    }

    /// Whose browser a cookie of the public listener says it is, and which.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn signed_in(&self, cookie: Option<&Plaintext>) -> Result<Option<(BrowserSession, User)>, Fault> {
        self.signed_in_at(Surface::Public, cookie).await
    }

    /// The same of a cookie of either listener.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn signed_in_at(
        &self,
        surface: Surface,
        cookie: Option<&Plaintext>,
    ) -> Result<Option<(BrowserSession, User)>, Fault> {
        let found = self.glance(surface, cookie).await?;
        if let (Some(cookie), Some((session, _))) = (cookie, &found)
            && self.env.now() >= session.last_seen.after(SEEN_STEP)
        {
            browser_sessions::touch(&self.store, cookie.digest()).await?;
        }
        Ok(found)
    }

    /// The same without counting this as use: the session rests on.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn glance(
        &self,
        surface: Surface,
        cookie: Option<&Plaintext>,
    ) -> Result<Option<(BrowserSession, User)>, Fault> {
        let Some(digest) = cookie.map(Plaintext::digest) else { return Ok(None) };
        Ok(browser_sessions::find(&self.store, digest, surface).await?)
    }

    /// Who is signed in with a cookie, without counting this as use: the session rests on.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn peek(&self, cookie: Option<&Plaintext>) -> Result<Option<UserId>, Fault> {
        let found = self.glance(Surface::Public, cookie).await?;
        Ok(found.map(|(_, user)| user.id))
    }

    /// Signs a browser out. One that was not signed in is so as well.
    ///
    /// # Errors
    /// A [`Fault`]: it may still be signed in.
    pub async fn sign_out(&self, session: &BrowserSession) -> Result<Ending, Fault> {
        let oneself = Actor::User(UserTag::from(&session.user));
        Ok(browser_sessions::end(&self.store, &session.id, Some(session.user.clone()), oneself).await?)
    }

    /// Gives somebody another password, who knows the one they have.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn change_password(
        &self,
        user: &User,
        (old, new): (Plaintext, Plaintext),
        address: Option<IpAddr>,
        browser: Browser,
    ) -> Result<Changed, Fault> {
        let (Some(kept), Some(login)) = (&user.password, &user.login) else { return Ok(Changed::HasNone) };
        if let Err(weak) = passwords::check_rules(&new, Some(login)) {
            return Ok(Changed::Weak(weak));
        }
        let charged = match self.backoff.begin(login.as_str(), address, self.env.now()) {
            Ok(charged) => charged,
            Err(Wait(wait)) => return Ok(Changed::Wait(wait)),
        };
        match self.passwords.verify(old, Some(kept)).await {
            Ok(true) => self.backoff.succeeded(charged),
            Ok(false) => return Ok(Changed::WrongPassword),
            Err(fault) => {
                self.backoff.take_back(charged);
                return Err(fault);
            }
        }
        let hash = self.passwords.hash(new).await?;
        let oneself = Actor::User(UserTag::from(&user.id));
        let edits = vec![users::Edit::Password(Some(hash))];
        let user = match users::change(&self.store, &user.id, Some(user.revision), edits, oneself).await? {
            users::Change::Changed(user) | users::Change::Unchanged(user) => user,
            users::Change::NotFound => return Ok(Changed::SignInAgain),
            // Somebody else changed the account meanwhile, and this did nothing. The others are about other edits.
            users::Change::Conflict(_) | users::Change::LoginTaken | users::Change::LastOwner => {
                return Err(Fault::Busy);
            }
        };
        // From here on the password is the new one, whatever else fails.
        Ok(changed(self.begin_session(&user, Method::Password, browser).await))
    }
}

/// Whether somebody may sign in on a surface: on the operators', who may at least look.
pub fn is_admitted(user: &User, surface: Surface) -> bool {
    match surface {
        Surface::Public => true,
        Surface::Admin => user.role >= Role::Viewer,
    }
}

/// How long a session lives without being seen, and at most.
pub fn lives(settings: &SignIn, surface: Surface) -> (Duration, Duration) {
    match surface {
        Surface::Public => (settings.session_idle, settings.session_life),
        Surface::Admin => (settings.session_idle.min(ADMIN_IDLE), settings.session_life.min(ADMIN_LIFE)),
    }
}

/// The answer to whoever has a new password, and a browser that is signed in with it or is not.
fn changed(begun: Result<Option<Begun>, Fault>) -> Changed {
    match begun {
        Ok(Some(begun)) => Changed::Changed(Box::new(begun)),
        Ok(None) => Changed::SignInAgain,
        Err(fault) => {
            tracing::warn!(%fault, "the browser in which a password was changed is not signed in");
            Changed::SignInAgain
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

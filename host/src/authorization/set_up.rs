//! The first owner: made by whoever has the link that the start printed, on a machine where nobody is an owner yet.
//!
//! The link is kept as a digest, in memory: it opens nothing once it was used, once a newer one was made, or once the
//! process has ended. That there is one first owner, whoever else tries at the same moment on whichever gateway, is for the
//! store to see to.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mint::{self, mint};
use super::passwords::{self, Weak};
use super::people::{Begun, Browser};
use super::{AuthorizationServer, Fault};
use crate::audit::{Actor, AuditEvent, OperatorProof};
use crate::identity::TokenList;
use crate::identity::browser::Method;
use crate::identity::user::{DisplayName, Login, Role};
use crate::ids::UserId;
use crate::secret::{Digest, Plaintext};
use crate::store::users::{self, FirstOwner, NewUser};
use crate::store::{StoreError, audit};

/// The link that counts, if there is one.
#[derive(Debug, Default)]
pub struct SetUp(Mutex<Option<Digest>>);

/// What somebody says who has come by the link.
#[derive(Debug)]
pub struct Founder {
    /// Of the link.
    pub token: Plaintext,
    pub login: String,
    pub name: String,
    pub password: Plaintext,
    pub browser: Browser,
}

/// What came of [`AuthorizationServer::found`].
#[derive(Debug)]
pub enum Founding {
    /// The account is made. Without a session where it could not be begun.
    Founded(Option<Box<Begun>>),
    /// There is an owner.
    Over,
    /// It is not the link that counts.
    WrongLink,
    /// No login is written like this.
    BadLogin,
    LoginTaken,
    Weak(Weak),
    TooMany,
}

/// Why there is no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLink {
    /// There is an owner.
    HasOwner,
    /// Nobody signs in with a password, so that an account made with one would open nothing.
    NoPasswords,
}

impl SetUp {
    fn replace(&self, digest: Option<Digest>) {
        *self.held() = digest;
    }

    fn is_it(&self, token: &Plaintext) -> bool {
        *self.held() == Some(token.digest())
    }

    fn is_there(&self) -> bool {
        self.held().is_some()
    }

    fn held(&self) -> MutexGuard<'_, Option<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuthorizationServer {
    /// A new token for the link. The one before opens nothing from now on. It is in the audit trail if an operator asked for it;
    /// the start is there anyway.
    ///
    /// # Errors
    /// The store's.
    pub async fn offer_set_up(&self, actor: Actor) -> Result<Result<Plaintext, NoLink>, StoreError> {
        if users::has_owner(&self.store).await? {
            self.set_up.replace(None);
            return Ok(Err(NoLink::HasOwner));
        }
        if !self.settings().sign_in.passwords {
            return Ok(Err(NoLink::NoPasswords));
        }
        if actor != Actor::System {
            audit::record(&self.store, actor, AuditEvent::SetUpLinkMade).await?;
        }
        let token = mint(&self.env, mint::SET_UP);
        self.set_up.replace(Some(token.digest()));
        Ok(Ok(token))
    }

    /// Whether somebody could come by a link now.
    ///
    /// # Errors
    /// The store's.
    pub async fn awaits_set_up(&self) -> Result<bool, StoreError> {
        if !self.set_up.is_there() {
            return Ok(false);
        }
        let is_over = users::has_owner(&self.store).await?;
        if is_over {
            // Nor does the link count again where there is no owner any more.
            self.set_up.replace(None);
        }
        Ok(!is_over)
    }

    /// Makes the first owner, and signs them in.
    ///
    /// # Errors
    /// A [`Fault`]: nothing was made, and the link counts as before.
    pub async fn found(&self, founder: Founder) -> Result<Founding, Fault> {
        let Founder { token, login, name, password, browser } = founder;
        if !self.awaits_set_up().await? {
            return Ok(Founding::Over);
        }
        if !self.set_up.is_it(&token) {
            return Ok(Founding::WrongLink);
        }
        let Some(login) = Login::parse(&login) else { return Ok(Founding::BadLogin) };
        if let Err(weak) = passwords::check_rules(&password, Some(&login)) {
            return Ok(Founding::Weak(weak));
        }
        let new = NewUser {
            id: UserId::generate(&self.env),
            login: Some(login),
            name: DisplayName::of(&name),
            email: None,
            role: Role::Owner,
            groups: TokenList::default(),
            invited: false,
            password: Some(self.passwords.hash(password).await?),
        };
        let actor = Actor::Operator(OperatorProof::SetUpLink);
        let user = match users::create_first_owner(&self.store, new, actor).await? {
            FirstOwner::Created(user) => user,
            FirstOwner::HasOne => return Ok(Founding::Over),
            FirstOwner::LoginTaken => return Ok(Founding::LoginTaken),
            FirstOwner::TooMany => return Ok(Founding::TooMany),
        };
        self.set_up.replace(None);
        tracing::info!(user = %user.id, "the first owner is made");
        // From here on there is an owner, whatever else fails.
        Ok(Founding::Founded(match self.begin_session(&user, Method::SetUpLink, browser).await {
            Ok(begun) => begun.map(Box::new),
            Err(fault) => {
                tracing::warn!(%fault, "the first owner is not signed in");
                None
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorization::people::testing::House;
    use crate::identity::browser::Surface;
    use crate::store::users::Edit;

    const PASSWORD: &str = "correct horse battery";

    fn founder(token: &Plaintext, login: &str, password: &str) -> Founder {
        let browser = Browser { replaces: None, agent: String::new(), surface: Surface::Admin };
        let (token, password) = (token.clone(), Plaintext::new(password));
        Founder { token, login: login.to_owned(), name: "Ada".to_owned(), password, browser }
    }

    #[tokio::test]
    async fn a_link_makes_one_owner_and_opens_nothing_afterwards() {
        let house = House::new("https://mcp.example.com", |_| {}).await;
        let server = &house.server;
        assert!(!server.awaits_set_up().await.unwrap(), "nobody has asked for a link");
        let first = server.offer_set_up(Actor::System).await.unwrap().unwrap();
        let link = server.offer_set_up(Actor::System).await.unwrap().unwrap();
        house.person("bob", PASSWORD).await;
        for (token, login, password, expected) in [
            (&first, "ada", PASSWORD, "WrongLink"),
            (&Plaintext::new(""), "ada", PASSWORD, "WrongLink"),
            (&link, "a b", PASSWORD, "BadLogin"),
            (&link, "bob", PASSWORD, "LoginTaken"),
            (&link, "ada", "short", "Weak(TooShort)"),
        ] {
            let founding = server.found(founder(token, login, password)).await.unwrap();
            assert_eq!(format!("{founding:?}"), expected, "{login}");
        }
        let founding = server.found(founder(&link, "Ada", PASSWORD)).await.unwrap();
        let Founding::Founded(Some(begun)) = founding else { panic!("{founding:?}") };
        assert_eq!((begun.session.surface, &begun.session.method), (Surface::Admin, &Method::SetUpLink));
        let found = server.signed_in_at(Surface::Admin, Some(&begun.cookie)).await.unwrap();
        assert_eq!(found.unwrap().1.role, Role::Owner);
        assert!(server.signed_in(Some(&begun.cookie)).await.unwrap().is_none(), "the public listener knows it not");
        let again = server.found(founder(&link, "eve", PASSWORD)).await.unwrap();
        assert!(matches!(again, Founding::Over), "{again:?}");
        assert!(!server.awaits_set_up().await.unwrap());
        assert_eq!(server.offer_set_up(Actor::System).await.unwrap().unwrap_err(), NoLink::HasOwner);
    }

    #[tokio::test]
    async fn of_two_who_have_the_link_one_becomes_owner() {
        let house = House::new("https://mcp.example.com", |_| {}).await;
        let link = house.server.offer_set_up(Actor::System).await.unwrap().unwrap();
        let try_as = |login| house.server.found(founder(&link, login, PASSWORD));
        let (one, other) = tokio::join!(try_as("ada"), try_as("eve"));
        let founded = [one.unwrap(), other.unwrap()].iter().filter(|f| matches!(f, Founding::Founded(_))).count();
        assert_eq!(founded, 1);
    }

    #[tokio::test]
    async fn there_is_no_link_where_there_is_an_owner_or_are_no_passwords() {
        let house = House::new("https://mcp.example.com", |auth| auth.sign_in.passwords = false).await;
        assert_eq!(house.server.offer_set_up(Actor::System).await.unwrap().unwrap_err(), NoLink::NoPasswords);
        let house = House::new("https://mcp.example.com", |_| {}).await;
        let link = house.server.offer_set_up(Actor::System).await.unwrap().unwrap();
        let invited = house.add("ada", None, true).await;
        house.edit(&invited, Edit::Role(Role::Owner)).await;
        let founding = house.server.found(founder(&link, "eve", PASSWORD)).await.unwrap();
        assert!(matches!(founding, Founding::Over), "{founding:?}");
    }
}

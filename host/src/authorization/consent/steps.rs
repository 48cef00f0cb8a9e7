//! What there is to see and to do at each step of a consent.

use std::sync::Arc;
use std::time::Duration;

use crate::config::auth::ScopeWords;
use crate::ids::{Principal, RequestId, UpstreamName};
use crate::oauth::ResourceList;
use crate::oauth::client::KnownClient;
use crate::pipeline::approvals::Standing;
use crate::policy::authority::GrantTerms;
use crate::secret::{Digest, Plaintext};
use crate::store::authorizations::Refused;

use crate::authorization::authorize::destination::Destination;

/// Where a request stands for the browser that looks at it.
#[derive(Debug)]
pub enum Look {
    /// As whom is to be chosen.
    Identity(Box<IdentityStep>),
    /// Yes or no.
    Services(Box<ServicesStep>),
    /// It does not go on with this identity, or not yet.
    Stopped(Box<Stop>),
    /// There is no such request for this browser.
    Refused(Refused),
    /// Its client is not known any more, or has taken its redirect URI back: nobody can be told anything.
    Void,
}

/// Who asks for what.
#[derive(Debug)]
pub struct Asking {
    pub request: RequestId,
    pub client: Arc<KnownClient>,
    pub destination: Destination,
    pub resources: ResourceList,
    /// What the client gets, in words.
    pub scopes: Vec<ScopeWords>,
}

/// The first page.
#[derive(Debug)]
pub struct IdentityStep {
    pub asking: Asking,
    pub person: Option<SignedIn>,
    /// Whether one may go on as a guest.
    pub guests: bool,
    pub notice: Option<Notice>,
}

/// A person who may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    pub name: String,
    /// Whether they have shown who they are as lately as the client wants.
    pub is_recent: bool,
}

/// Why a choice has to be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Somebody else is signed in now, or nobody.
    PersonChanged,
    /// The identity opens nothing any more.
    IdentityGone,
    /// The client wants the person to show again who they are.
    SignInAgain,
}

/// The second page.
#[derive(Debug)]
pub struct ServicesStep {
    pub asking: Asking,
    pub principal: Principal,
    /// Of the identity, for people.
    pub name: String,
    pub services: Vec<Service>,
    /// What a policy wants the person to be told.
    pub headline: Option<String>,
    pub warnings: Vec<String>,
    /// Whether policies give the client less than it asks for.
    pub is_narrowed: bool,
    /// Whether the person may say that they need not be asked again (row A8).
    pub may_remember: bool,
    /// Digest of all that: what a person agrees to is what they were shown.
    pub shown: Digest,
    pub(super) terms: GrantTerms,
}

/// An upstream that the client will reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub upstream: UpstreamName,
    pub connection: Connection,
}

/// How things stand between an identity and an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// The upstream wants no credential of the identity's own.
    NoneNeeded,
    Connected,
    /// What is stored does not work any more, or is not all that is asked for.
    NeedsConnecting,
    /// It can be connected before or after the client is let in.
    NotConnected,
    /// The identity may not use it now.
    OutOfReach,
}

impl Connection {
    /// Whether there is something to be done about it.
    pub const fn is_missing(self) -> bool {
        matches!(self, Self::NeedsConnecting | Self::NotConnected)
    }
}

/// The page where it does not go on.
#[derive(Debug)]
pub struct Stop {
    pub asking: Asking,
    /// Of the identity, for people.
    pub name: String,
    /// Whether the identity is a person, who can sign in.
    pub is_person: bool,
    pub why: Why,
}

/// Why it does not go on.
#[derive(Debug)]
pub enum Why {
    /// A policy says no.
    Denied { message: Option<String> },
    /// A policy wants the person to show again who they are.
    StepUp { message: String },
    /// Somebody has to agree.
    Unapproved { title: String, message: String, standing: Standing },
}

/// As whom a person wants to go on.
#[derive(Debug)]
pub enum Identity {
    /// The person who is signed in.
    Person,
    /// A virtual key.
    Key(Plaintext),
    Guest,
}

/// What came of a choice.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    Chosen,
    /// Nobody is signed in.
    NotSignedIn,
    /// It opens nothing: unknown, disabled and expired are told alike.
    WrongKey,
    /// The operator does not let guests in.
    NoGuests,
    TooManyGuests,
    /// Again after that time.
    TooOften(Duration),
    Refused(Refused),
}

/// What came of the last step.
#[derive(Debug)]
pub enum Finish {
    /// The browser is sent there, with a code.
    Done(String),
    /// What the person agreed to is not what there is to agree to now.
    Changed(Look),
}

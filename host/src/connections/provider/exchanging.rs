//! Vouching for a person at the authorization server of an upstream (RFC 8693): what is said of them, and what comes of it.

use super::asking::Site;
use super::{DiscoverError, Provider, clients};
use crate::config::{SubjectOf, TokenExchange, UpstreamAuth, VouchedClaim};
use crate::connection::lending::ExchangeRefusal;
use crate::connections::issuer::{Exchanged, NotExchanged, Person};
use crate::identity::user::{Email, ExternalIdentity, Login, User};
use crate::ids::{TokenId, UpstreamName};
use crate::oauth::upstream::Unfit;
use crate::oauth::upstream::token::{self, NotGiven, Presented, Refusal};
use crate::oauth::vouched::{About, Assertion};

/// No failure to find something is a refusal.
impl From<DiscoverError> for NotExchanged {
    fn from(error: DiscoverError) -> Self {
        match error {
            DiscoverError::Unreachable { stage: _, retry_after } => Self::Later { retry_after },
            DiscoverError::Unfit(_) => Self::Later { retry_after: None },
            DiscoverError::Fault => Self::Fault,
        }
    }
}

impl From<Refusal> for ExchangeRefusal {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Subject => Self::Subject,
            Refusal::Target => Self::Target,
            Refusal::Denied => Self::Denied,
            Refusal::Scope => Self::Scope,
        }
    }
}

impl Provider {
    /// Whether the server that is configured is to know the person by something.
    pub(super) fn can_name(&self, upstream: &UpstreamName, person: &Person) -> Result<(), NotExchanged> {
        let settings = (self.parts.upstreams)(upstream).ok_or(NotExchanged::Fault)?;
        let UpstreamAuth::TokenExchange(terms) = &settings.auth else { return Err(NotExchanged::Fault) };
        // No upstream chooses the server: it is named, and its metadata has to have the same name.
        let issuer = terms.client.issuer.as_deref().unwrap_or_default();
        said_of(person, terms, issuer).map(drop).ok_or(NotExchanged::Nobody)
    }

    /// Finds the server, says who the person is, and reads what it gives.
    pub(super) async fn exchange_for(
        &self,
        upstream: &UpstreamName,
        person: &Person,
    ) -> Result<Exchanged, NotExchanged> {
        let settings = (self.parts.upstreams)(upstream).ok_or(NotExchanged::Fault)?;
        let UpstreamAuth::TokenExchange(terms) = &settings.auth else { return Err(NotExchanged::Fault) };
        let site = Site::of(&settings).map_err(DiscoverError::from)?;
        let found = self.discover(&settings).await?;
        let metadata = &found.metadata;
        let credentials = terms.client.client.as_ref();
        let client = credentials.and_then(|credentials| clients::configured(credentials, metadata));
        let client = client.ok_or(DiscoverError::Unfit(Unfit::NoMethod))?;
        let (subject, about) = said_of(person, terms, &metadata.issuer).ok_or(NotExchanged::Nobody)?;
        let called = subject.clone();
        let assertion = Assertion {
            id: TokenId::generate(&self.parts.env),
            subject,
            audience: metadata.issuer.clone(),
            client: client.id.clone(),
            about,
            issued: self.parts.env.now(),
        };
        let assertion = (self.parts.voucher)(&assertion).map_err(|unsigned| {
            tracing::error!(%upstream, error = %unsigned, "the gateway cannot vouch for anybody");
            NotExchanged::Fault
        })?;
        // Nobody is there who would see what the upstream asks for.
        let scopes = terms.client.scopes.clone().unwrap_or_default();
        let presented =
            Presented::Subject { assertion: &assertion, audience: terms.audience.as_deref(), scopes: &scopes };
        let form = token::form(&client, presented, terms.resource.as_deref().unwrap_or(&found.resource));
        let answer = self.asking.form(&metadata.token_endpoint, &form, &site.ground).await.map_err(|error| {
            tracing::info!(%upstream, %error, "a token endpoint did not answer");
            NotExchanged::Later { retry_after: None }
        })?;
        let status = answer.status.as_u16();
        match token::read_exchanged(answer.status, &answer.headers, &answer.body) {
            // A refresh token is not asked for, and nobody keeps one.
            Ok(given) => Ok(Exchanged {
                access: given.access,
                expires_in: given.expires_in,
                scopes: given.scopes.unwrap_or(scopes),
                issuer: metadata.issuer.clone(),
                subject: called,
            }),
            Err(NotGiven::Refused(refusal)) => Err(NotExchanged::Refused(refusal.into())),
            Err(NotGiven::Client) => {
                // For the operator to correct: it says nothing of the person.
                tracing::warn!(%upstream, status, "the authorization server lets our client exchange nothing");
                Err(NotExchanged::Later { retry_after: None })
            }
            Err(NotGiven::Later { retry_after }) => {
                tracing::info!(%upstream, status, "a token endpoint gave no tokens");
                Err(NotExchanged::Later { retry_after })
            }
        }
    }
}

/// By what the server at `issuer` knows the person, and what it is told besides. `None` where they have no such thing.
fn said_of(person: &Person, terms: &TokenExchange, issuer: &str) -> Option<(String, About)> {
    let User { id, login, name, email, groups, .. } = &person.user;
    let mut about = About::default();
    let subject = match terms.subject {
        SubjectOf::Id => id.as_str().to_owned(),
        SubjectOf::Login => login.as_ref().map(Login::as_str)?.to_owned(),
        SubjectOf::Email => email.as_ref().map(Email::as_str)?.to_owned(),
        SubjectOf::Provider => {
            let identity = identity_at(&person.identities, issuer)?;
            about.identity_provider = Some(identity.issuer().to_owned());
            identity.subject().to_owned()
        }
    };
    for claim in &terms.claims {
        match claim {
            VouchedClaim::Login => about.preferred_username = login.as_ref().map(ToString::to_string),
            VouchedClaim::Name => about.name = Some(name.to_string()),
            VouchedClaim::Email => about.email = email.as_ref().map(ToString::to_string),
            VouchedClaim::Groups => about.groups = Some(groups.to_vec()),
        }
    }
    Some((subject, about))
}

/// As the server itself knows the person. What another provider calls them may be somebody else there.
fn identity_at<'a>(identities: &'a [ExternalIdentity], issuer: &str) -> Option<&'a ExternalIdentity> {
    identities.iter().find(|identity| identity.issuer() == issuer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OAuthClient;
    use crate::env::{Env, Timestamp};
    use crate::identity::TokenList;
    use crate::identity::user::{DisplayName, Role, Status};
    use crate::ids::UserId;

    fn person(login: Option<&str>, identities: &[(&str, &str)]) -> Person {
        let user = User {
            id: UserId::generate(&Env::system()),
            revision: 1,
            login: login.and_then(Login::parse),
            name: DisplayName::of("Ada"),
            email: None,
            role: Role::User,
            groups: TokenList::parse(vec!["staff".to_owned()]).unwrap(),
            status: Status::Active,
            password: None,
            created: Timestamp::from_millis(0),
            last_sign_in: None,
        };
        let identity = |(issuer, subject): &(&str, &str)| ExternalIdentity::parse(issuer, subject).unwrap();
        Person { user, identities: identities.iter().map(identity).collect() }
    }

    fn terms(subject: SubjectOf, claims: &[VouchedClaim]) -> TokenExchange {
        let client = OAuthClient::default();
        TokenExchange { client, audience: None, resource: None, subject, claims: claims.to_vec() }
    }

    fn subject(person: &Person, of: SubjectOf) -> Option<String> {
        said_of(person, &terms(of, &[]), "https://here").map(|(subject, _)| subject)
    }

    #[test]
    fn a_person_is_named_as_the_operator_wants_or_not_at_all() {
        let ada = person(Some("ada"), &[("https://here", "a-1")]);
        assert_eq!(subject(&ada, SubjectOf::Id).as_deref(), Some(ada.user.id.as_str()));
        assert_eq!(subject(&ada, SubjectOf::Login).as_deref(), Some("ada"));
        assert_eq!(subject(&ada, SubjectOf::Provider).as_deref(), Some("a-1"));
        assert_eq!(subject(&ada, SubjectOf::Email), None);
        let bob = person(None, &[("https://idp", "b-1"), ("https://here", "b-2"), ("https://else", "b-3")]);
        assert_eq!(subject(&bob, SubjectOf::Login), None);
        assert_eq!(subject(&bob, SubjectOf::Provider).as_deref(), Some("b-2"), "the server knows its own");
        let carl = person(None, &[("https://idp", "c-1")]);
        assert_eq!(subject(&carl, SubjectOf::Provider), None, "who is c-1 elsewhere may be somebody else here");
    }

    #[test]
    fn nothing_is_said_besides_that_is_not_asked_for() {
        let ada = person(Some("ada"), &[]);
        let about = |claims: &[VouchedClaim]| said_of(&ada, &terms(SubjectOf::Id, claims), "https://here").unwrap().1;
        assert_eq!(about(&[]), About::default());
        let all = about(&[VouchedClaim::Login, VouchedClaim::Name, VouchedClaim::Email, VouchedClaim::Groups]);
        let expected = About {
            preferred_username: Some("ada".to_owned()),
            name: Some("Ada".to_owned()),
            groups: Some(vec!["staff".to_owned()]),
            ..About::default()
        };
        assert_eq!(all, expected);
    }
}

//! Every event comes back as it was, and rows of before stay readable.

use super::super::tests::memory;
use super::row::EventRecord;
use super::writing::MAX_TEXT_BYTES;
use super::*;
use crate::audit::{
    FieldChange, OperatorProof, Party, Registered, RegisteredBy, RevocationReason, Ruling, SigningKeyState,
};
use crate::ids::{
    ApiTokenId, ApiTokenTag, ApprovalId, BindingName, BrowserSessionId, ClientId, DeploymentId, GrantId, KekId,
    KeyName, Owner, Principal, UpstreamName, UserId, UserTag,
};

fn every_event() -> Vec<AuditEvent> {
    let name = KeyName::parse("ci").unwrap();
    let upstream = UpstreamName::parse("notes").unwrap();
    let binding = BindingName::parse("confirm").unwrap();
    let (user, session) =
        (UserId::parse(&"0b".repeat(12)).unwrap(), BrowserSessionId::parse(&"0c".repeat(12)).unwrap());
    let token = ApiTokenId::parse(&"0d".repeat(12)).unwrap();
    let ruling = Box::new(Ruling {
        approval: ApprovalId::parse(&"0a".repeat(12)).unwrap(),
        principal: Principal::Key(name.clone()),
        upstream: upstream.clone(),
        item: "delete".to_owned(),
        policy: BindingName::parse("confirm").unwrap(),
        code: "destructive".to_owned(),
        note: Some("fine".to_owned()),
    });
    vec![
        AuditEvent::GatewayStarted { version: "0.1.0".to_owned() },
        AuditEvent::GatewayStopped,
        AuditEvent::KeyCreated { name: name.clone(), changes: vec![change("owner", None, Some("ada"))] },
        AuditEvent::KeyEnabled { name: name.clone() },
        AuditEvent::KeyDisabled { name: name.clone() },
        AuditEvent::KeyDeleted { name: name.clone(), changes: vec![change("owner", Some("ada"), None)] },
        AuditEvent::KeyChanged { name: name.clone(), change: change("owner", None, Some("ada")) },
        AuditEvent::KeyRotated {
            name: name.clone(),
            earlier_until: Some(Timestamp::from_millis(7)),
            ended_earlier: true,
        },
        AuditEvent::KeyRotated { name: name.clone(), earlier_until: None, ended_earlier: false },
        AuditEvent::KeyEarlierEnded { name: name.clone() },
        AuditEvent::PoliciesReloaded { generation: 7 },
        AuditEvent::PolicyReloadRefused { reason: "it imports wasi".to_owned() },
        AuditEvent::PoliciesRolledBack { generation: 8, to: 6 },
        AuditEvent::ApprovalGiven(ruling.clone()),
        AuditEvent::ApprovalRefused(Box::new(Ruling { note: None, ..*ruling })),
        AuditEvent::PinsAdopted { upstream: upstream.clone(), tools: 3 },
        AuditEvent::PinAccepted { upstream: upstream.clone(), tool: "add".to_owned(), digest: "ab".to_owned() },
        AuditEvent::PinsAccepted { upstream: upstream.clone(), tools: 4 },
        AuditEvent::RecordingRead { decision: "0123".to_owned() },
        AuditEvent::RecordingsRead { policy: Some("confirm".to_owned()), hook: None, questions: 3 },
        AuditEvent::VaultInitialized {
            deployment: DeploymentId::parse(&"0b".repeat(16)).unwrap(),
            kek: KekId::parse("file").unwrap(),
        },
        AuditEvent::VaultKekRotated { from: None, to: KekId::parse("file").unwrap() },
        AuditEvent::VaultRewrapped { to: KekId::parse("file").unwrap(), keys: 7 },
        AuditEvent::VaultShredded { owner: Owner::parse("key:ci").unwrap() },
        AuditEvent::VaultRecordRefused {
            owner: Owner::Deployment,
            table: "vault_secrets".to_owned(),
            key: "deployment-secret".to_owned(),
            field: "value".to_owned(),
            reason: "damaged".to_owned(),
        },
        AuditEvent::PinsForgotten { upstream: upstream.clone(), tools: 5 },
        AuditEvent::PoliciesNotFollowed { reason: "it is not kept".to_owned() },
        AuditEvent::UserCreated {
            user: user.clone(),
            role: "role".to_owned(),
            status: "status".to_owned(),
            changes: vec![change("login", None, Some("ada"))],
        },
        AuditEvent::UserChanged { user: user.clone(), change: change("field", None, Some("to")) },
        AuditEvent::UserDeleted { user: user.clone(), name: "name".to_owned() },
        AuditEvent::IdentityLinked { user: user.clone(), issuer: "issuer".to_owned(), subject: "subject".to_owned() },
        AuditEvent::IdentityUnlinked { user: user.clone(), issuer: "issuer".to_owned(), subject: "subject".to_owned() },
        AuditEvent::SignedIn { user: user.clone(), session: session.clone(), method: "method".to_owned() },
        AuditEvent::SessionRenewed { user: user.clone(), session: session.clone() },
        AuditEvent::SignedOut { user: user.clone(), sessions: 7 },
        AuditEvent::EverybodySignedOut,
        AuditEvent::SetUpLinkMade,
        AuditEvent::ConnectionLinkMade {
            holder: "gateway".to_owned(),
            upstream: upstream.clone(),
            expires: Timestamp::from_millis(7),
        },
        AuditEvent::ApiTokenCreated {
            token: token.clone(),
            user: user.clone(),
            name: "name".to_owned(),
            role: "role".to_owned(),
            changes: vec![change("scopes", None, Some("read"))],
        },
        AuditEvent::ApiTokenRevoked { token: token.clone(), user: user.clone() },
        AuditEvent::ConnectionStored {
            holder: "holder".to_owned(),
            upstream: upstream.clone(),
            kind: "kind".to_owned(),
        },
        AuditEvent::ConnectionFailed {
            holder: "holder".to_owned(),
            upstream: upstream.clone(),
            reason: "reason".to_owned(),
        },
        AuditEvent::ConnectionOrphaned { holder: "holder".to_owned(), upstream: upstream.clone() },
        AuditEvent::ConnectionReactivated { holder: "holder".to_owned(), upstream: upstream.clone() },
        AuditEvent::ConnectionEnded { holder: "holder".to_owned(), upstream: upstream.clone(), why: "why".to_owned() },
        AuditEvent::TokensRevoked { holder: "holder".to_owned(), upstream: upstream.clone() },
        AuditEvent::TokensNotRevoked { holder: "holder".to_owned(), upstream: upstream.clone(), attempts: 7 },
        AuditEvent::FlowRefused { holder: "holder".to_owned(), upstream: upstream.clone(), check: "check".to_owned() },
        AuditEvent::UpstreamDeclared {
            upstream: upstream.clone(),
            revision: 7,
            unchecked: true,
            changes: vec![change("trust", None, Some("low"))],
        },
        AuditEvent::UpstreamChanged {
            upstream: upstream.clone(),
            revision: 7,
            enabled: true,
            unchecked: false,
            changes: vec![change("trust", Some("low"), Some("high")), change("trust", None, None)],
        },
        AuditEvent::UpstreamWithdrawn { upstream: upstream.clone(), changes: Vec::new() },
        AuditEvent::PolicyModuleUploaded {
            digest: "ab".to_owned(),
            name: "confirm".to_owned(),
            version: "1.0.0".to_owned(),
            bytes: 7,
        },
        AuditEvent::PolicyModuleSigned { digest: "ab".to_owned() },
        AuditEvent::PolicyModuleRemoved {
            digest: "ab".to_owned(),
            name: "confirm".to_owned(),
            version: "1.0.0".to_owned(),
        },
        AuditEvent::PolicyBound { binding: binding.clone(), revision: 1, definition: "{}".to_owned() },
        AuditEvent::PolicyBindingChanged {
            binding: binding.clone(),
            revision: 2,
            before: "{}".to_owned(),
            after: r#"{"mode":"shadow"}"#.to_owned(),
        },
        AuditEvent::PolicyUnbound { binding, before: "{}".to_owned() },
    ]
    .into_iter()
    .chain(oauth_events())
    .collect()
}

fn change(field: &str, from: Option<&str>, to: Option<&str>) -> FieldChange {
    FieldChange { field: field.to_owned(), from: from.map(str::to_owned), to: to.map(str::to_owned) }
}

#[test]
fn rows_from_before_settings_were_told_stay_readable() {
    for (text, expected) in [
        (
            r#"{"upstream_declared":{"upstream":"notes","revision":7}}"#,
            r#"{"upstream_declared":{"upstream":"notes","revision":7,"unchecked":false}}"#,
        ),
        (
            r#"{"upstream_changed":{"upstream":"notes","revision":7,"enabled":true,"unchecked":true}}"#,
            r#"{"upstream_changed":{"upstream":"notes","revision":7,"enabled":true,"unchecked":true}}"#,
        ),
        (r#"{"upstream_withdrawn":{"upstream":"notes"}}"#, r#"{"upstream_withdrawn":{"upstream":"notes"}}"#),
        (r#"{"key_created":{"name":"ci"}}"#, r#"{"key_created":{"name":"ci"}}"#),
        (r#"{"key_deleted":{"name":"ci"}}"#, r#"{"key_deleted":{"name":"ci"}}"#),
        (r#"{"client_deleted":{"client":"app"}}"#, r#"{"client_deleted":{"client":"app"}}"#),
    ] {
        let event = AuditEvent::try_from(serde_json::from_str::<EventRecord>(text).unwrap()).unwrap();
        assert_eq!(serde_json::to_string(&EventRecord::from(&event)).unwrap(), expected);
    }
}

#[test]
fn a_change_is_one_thing_outside_and_stored_as_it_was_before() {
    let user = "0b".repeat(12);
    let key = r#"{"key_changed":{"name":"ci","field":"owner","from":null,"to":"ada"}}"#.to_owned();
    let user = format!(r#"{{"user_changed":{{"user":"{user}","field":"role","from":"user","to":"viewer"}}}}"#);
    let changes = r#""changes":[{"field":"trust","from":"low","to":null}]"#;
    let client = format!(r#"{{"client_updated":{{"client":"app",{changes}}}}}"#);
    let upstream = format!(r#"{{"upstream_withdrawn":{{"upstream":"notes",{changes}}}}}"#);
    for stored in [key, user, client, upstream] {
        let event = AuditEvent::try_from(serde_json::from_str::<EventRecord>(&stored).unwrap()).unwrap();
        assert_eq!(serde_json::to_string(&EventRecord::from(&event)).unwrap(), stored);
    }
}

fn oauth_events() -> Vec<AuditEvent> {
    let client = ClientId::parse("https://app.example/client.json").unwrap();
    let grant = GrantId::parse(&"0b".repeat(12)).unwrap();
    let party = Party { principal: Principal::Key(KeyName::parse("ci").unwrap()), client: client.clone() };
    let reason = RevocationReason::TokenReused;
    vec![
        AuditEvent::ClientRegistered {
            client: client.clone(),
            by: RegisteredBy::Client,
            evicted: 2,
            as_what: Registered {
                name: Some("An app".to_owned()),
                redirect_uris: vec!["https://app.example/callback".to_owned()],
                grant_types: vec!["authorization_code".to_owned()],
                changes: vec![change("scope", None, Some("read"))],
            },
        },
        AuditEvent::ClientUpdated {
            client: client.clone(),
            changes: vec![change("client_name", None, Some("An app"))],
        },
        AuditEvent::ClientDeleted { client: client.clone(), changes: vec![change("scope", Some("read"), None)] },
        AuditEvent::ConsentGiven(party.clone()),
        AuditEvent::ConsentRefused { client },
        AuditEvent::ConsentForgotten(party.clone()),
        AuditEvent::CodeBurned(party.clone()),
        AuditEvent::GrantIssued { grant: grant.clone(), party: party.clone() },
        AuditEvent::GrantRevoked { grant: grant.clone(), party, reason },
        AuditEvent::GrantsRevoked { of: "kind:guest".to_owned(), reason },
        AuditEvent::TokenRevoked { grant: grant.clone() },
        AuditEvent::RefreshReplayed { grant: grant.clone() },
        AuditEvent::RefreshReuseRefused { grant },
        AuditEvent::SigningKeyChanged {
            key: "k1".to_owned(),
            algorithm: "RS256".to_owned(),
            state: SigningKeyState::Retired,
        },
        AuditEvent::BackupTaken,
        AuditEvent::BackupRestored { taken: Timestamp::from_millis(7), rows: 3, digest: "ab".to_owned(), epoch: 2 },
    ]
}

#[tokio::test]
async fn events_come_back_newest_first_as_they_were_given() {
    let store = memory().await;
    let user = UserTag::from(&UserId::parse("0123456789abcdef01234567").unwrap());
    let token = ApiTokenTag::from(&ApiTokenId::parse("76543210fedcba9876543210").unwrap());
    let operators = [
        OperatorProof::Socket,
        OperatorProof::Token,
        OperatorProof::Session(user),
        OperatorProof::ApiToken { token, user },
        OperatorProof::SetUpLink,
    ];
    let actors = [Actor::System, Actor::User(user)].into_iter().chain(operators.map(Actor::Operator));
    let actors: Vec<Actor> = actors.collect();
    let mut expected = Vec::new();
    for (event, (actor, sequence)) in every_event().into_iter().zip(actors.into_iter().cycle().zip(1..)) {
        record(&store, actor, event.clone()).await.unwrap();
        let entry = AuditEntry { at: Timestamp::from_millis(1_000), actor, event };
        expected.insert(0, Recorded { sequence, entry });
    }
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = list(&store, after, 3).await.unwrap();
        listed.extend(page.items);
        let Some(next) = page.next else { break };
        after = Cursor::from_bytes(next.as_bytes().to_vec());
    }
    assert_eq!(listed, expected);
}

#[test]
fn lines_of_clients_from_before_are_read() {
    let read = |event: &str| {
        let row = format!(r#"{{"at_ms":1,"sequence":1,"actor":"system","event":{event}}}"#);
        let row = [&[AUDIT.version][..], row.as_bytes()].concat();
        Recorded::try_from(AUDIT.decode(&row).unwrap()).unwrap().entry.event
    };
    let client = ClientId::parse("app").unwrap();
    let (by, as_what) = (RegisteredBy::Operator, Registered::default());
    assert_eq!(
        read(r#"{"client_registered":{"client":"app","by":"operator","evicted":0}}"#),
        AuditEvent::ClientRegistered { client: client.clone(), by, evicted: 0, as_what }
    );
    let updated = AuditEvent::ClientUpdated { client, changes: Vec::new() };
    assert_eq!(read(r#"{"client_updated":{"client":"app"}}"#), updated);
}

#[tokio::test]
async fn an_event_leaves_nothing_if_its_change_fails() {
    let store = memory().await;
    let failed = store
        .write(|tx| {
            append(tx, Actor::System, &AuditEvent::GatewayStopped)?;
            Err::<(), _>(StoreError::Busy)
        })
        .await;
    assert!(matches!(failed, Err(StoreError::Busy)));
    record(&store, Actor::System, AuditEvent::GatewayStopped).await.unwrap();
    let page = list(&store, None, 10).await.unwrap();
    assert_eq!(page.items.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_long_reason_is_shortened() {
    let store = memory().await;
    let reason = "x".repeat(1 << 20);
    record(&store, Actor::System, AuditEvent::PolicyReloadRefused { reason }).await.unwrap();
    let page = list(&store, None, 10).await.unwrap();
    let AuditEvent::PolicyReloadRefused { reason } = &page.items[0].entry.event else { panic!("another event") };
    assert_eq!(reason.len(), MAX_TEXT_BYTES);
}

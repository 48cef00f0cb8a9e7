//! Disconnecting and revoking.

use super::*;
use crate::connection::End;
use crate::store::connections::Disconnection;

impl Scene {
    async fn disconnect(&self, place: &Place) -> Disconnection {
        self.keeper.disconnect(place, End::Disconnected, Actor::System).await.unwrap()
    }

    async fn revoke(&self) -> usize {
        self.keeper.revoke_due(&mut None).await.unwrap()
    }

    fn told(&self) -> usize {
        self.issuer.revoked.lock().unwrap().len()
    }

    async fn has_given_up(&self) -> bool {
        self.events().await.iter().any(|event| matches!(event, AuditEvent::TokensNotRevoked { .. }))
    }
}

#[tokio::test]
async fn u10_what_is_disconnected_is_gone_at_once_and_revoked_when_its_server_is_there() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", Some("r"), Some(HOUR)).await;
    assert_eq!(scene.lend(&ci()).await, Ok("own".to_owned()));
    assert_eq!(scene.disconnect(&ci()).await, Disconnection::Ended { is_to_revoke: true });
    assert_eq!(scene.lend(&ci()).await, Err(not_connected()));
    assert_eq!((scene.get(&ci()).await, scene.told()), (None, 0));
    scene.issuer.will_revoke(Err(NotRevoked::Later { retry_after: None }));
    assert_eq!((scene.revoke().await, scene.told()), (1, 1));
    assert_eq!((scene.revoke().await, scene.told()), (0, 1), "there is a pause");
    scene.forward(Duration::from_secs(60));
    assert_eq!((scene.revoke().await, scene.told()), (1, 2));
    let both = (Some("r".to_owned()), "own".to_owned());
    assert_eq!(*scene.issuer.revoked.lock().unwrap(), [both.clone(), both]);
    assert!(scene.events().await.iter().any(|event| matches!(event, AuditEvent::TokensRevoked { .. })));
    scene.forward(HOUR);
    assert_eq!(scene.revoke().await, 0);
    assert_eq!(scene.disconnect(&ci()).await, Disconnection::NotFound);
}

#[tokio::test]
async fn what_a_server_never_revokes_is_given_up() {
    let scene = Scene::new().await;
    scene.connect(&ci(), "own", None, None).await;
    scene.disconnect(&ci()).await;
    scene.issuer.will_revoke(Err(NotRevoked::Never));
    assert_eq!(scene.revoke().await, 1);
    assert_eq!(*scene.issuer.revoked.lock().unwrap(), [(None, "own".to_owned())]);
    assert!(scene.has_given_up().await);
    scene.forward(HOUR);
    assert_eq!(scene.revoke().await, 0);
}

#[tokio::test]
async fn u12_a_token_that_does_not_open_is_shown_to_nobody_when_it_is_to_be_revoked() {
    let scene = Scene::new().await;
    let id = ConnectionId::generate(&scene.env);
    let stolen = scene.tokens((&user(), &id, 1), "stolen", Some("r"), None).await;
    scene.put(&ci(), id, 1, stolen).await;
    scene.disconnect(&ci()).await;
    assert_eq!((scene.revoke().await, scene.told()), (1, 0));
    assert!(scene.has_given_up().await);
}

#[tokio::test]
async fn header_values_are_erased_and_nobody_is_told() {
    let scene = Scene::new().await;
    scene.give(&ci(), &[("x-api-key", "k1")]).await;
    assert_eq!(scene.disconnect(&ci()).await, Disconnection::Ended { is_to_revoke: false });
    assert_eq!((scene.revoke().await, scene.told()), (0, 0));
    let lent = scene.keeper.lend(&wanted_headers(&ci(), &["x-api-key"])).await;
    assert_eq!(lent.map(|_| ()), Err(not_connected()));
}

#[tokio::test]
async fn one_gateway_revokes_and_many_at_once_in_steps() {
    let scene = Scene::new().await;
    let (here, there) = (scene.replica(1), scene.replica(2));
    let mut lease = None;
    here.keeper.revoke_due(&mut lease).await.unwrap();
    for number in 0..20 {
        let place = place(&format!("key:k{number}"));
        scene.connect(&place, "own", Some("r"), None).await;
        scene.disconnect(&place).await;
    }
    assert_eq!(there.revoke().await, 0);
    assert_eq!(here.keeper.revoke_due(&mut lease).await.unwrap(), 16);
    assert_eq!(here.keeper.revoke_due(&mut lease).await.unwrap(), 4);
    assert_eq!(scene.told(), 20);
    assert!(scene.issuer.most_at_once.load(Ordering::SeqCst) <= 4);
}

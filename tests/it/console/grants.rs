//! `/grants`: what people let clients do, looked at and revoked, one or many at once.

use portcullis_tests::Gateway;
use portcullis_tests::upstreams::fixture::Fixture;
use serde_json::Value;

use super::browser_of;
use crate::oauth::{Who, client_of, sign_in_as};

async fn active(gateway: &Gateway) -> Vec<Value> {
    let view = gateway.operator("GET", "/api/v1/grants?state=active", None).await.json();
    view["grants"].as_array().unwrap_or_else(|| panic!("{view}")).clone()
}

#[tokio::test]
async fn grants_are_looked_at_and_revoked() {
    let up = Fixture::start().await;
    let builder = Gateway::builder().http_upstream("up", &up.url).key("alice").section("[auth]\nguests = true");
    let gateway = builder.start().await;
    gateway.until_upstreams_are_up().await;
    let (one, two) = (client_of(&gateway).await, client_of(&gateway).await);
    for (client, who) in [(&one, Who::Key("alice")), (&one, Who::Guest), (&two, Who::Key("alice")), (&two, Who::Guest)]
    {
        sign_in_as(&gateway, client, who).await;
    }
    let mut viewer = browser_of(&gateway, "viewer").await;
    let mut operator = browser_of(&gateway, "operator").await;
    let list = viewer.get("/grants").await;
    let revokes = |links: Vec<&str>| links.iter().filter(|link| link.ends_with("/revoke")).count();
    assert!(list.links().contains(&"/keys/alice") && revokes(list.links()) == 0, "{list}");
    assert_eq!(revokes(operator.get("/grants").await.links()), 4);
    assert_eq!(revokes(operator.get("/grants?kind=key").await.links()), 2);
    assert_eq!(revokes(operator.get("/grants?principal=key%3Aalice&state=revoked").await.links()), 0);

    let first = active(&gateway).await[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/grants/{first}/revoke");
    let form = operator.get(&path).await.form(&path);
    let page = operator.submit(&form).await;
    assert!(page.status() == 200 && page.text().contains("It counts no more."), "{page}");
    assert_eq!(active(&gateway).await.len(), 3);
    let form = operator.get(&path).await.form(&path);
    assert_eq!(operator.submit(&form).await.status(), 404, "it is revoked already");

    let list = operator.get("/grants?kind=key").await;
    let path = "/grants/revoke/kind/key";
    assert!(list.links().contains(&path), "{list}");
    let asks = operator.get(path).await;
    assert!(asks.text().contains("grant"), "{asks}");
    operator.submit(&asks.form(path)).await;
    assert!(active(&gateway).await.iter().all(|grant| grant["kind"] == "guest"));

    let id = active(&gateway).await[0]["client"].as_str().unwrap().to_owned();
    let path = format!("/grants/revoke/client/{id}");
    let asks = operator.get(&path).await;
    assert!(asks.text().contains("That is one grant now."), "{asks}");
    operator.submit(&asks.form(&path)).await;
    assert!(active(&gateway).await.iter().all(|grant| grant["client"] != id.as_str()));

    let odd = operator.get("/grants?principal=ci").await;
    assert_eq!((odd.status(), odd.form("/grants").field("principal")), (422, Some("ci")), "{odd}");
    assert!(!odd.links().iter().any(|link| link.starts_with("/grants/revoke")), "{odd}");
    assert_eq!(viewer.get("/grants/revoke/all").await.status(), 403);
    assert_eq!(operator.get("/grants/revoke/principal/anonymous").await.status(), 404);
    let form = operator.get("/grants/revoke/all").await.form("/grants/revoke/all");
    operator.submit(&form).await;
    assert_eq!(active(&gateway).await, Vec::<Value>::new());
    let page = operator.get("/grants").await;
    assert!(page.text().contains("There are none of these."), "{page}");
}

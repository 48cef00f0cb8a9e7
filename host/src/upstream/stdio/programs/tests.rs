//! Children of shell scripts that tell what they were given.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::Bounds;
use super::*;
use crate::config::{self, UpstreamAuth};
use crate::connection::lending::{Lender, Rejected, Wanted};
use crate::connection::{Holder, Place};
use crate::env::Env;
use crate::ids::{KeyName, UpstreamName};
use crate::mcp::call::Params;
use crate::mcp::json::to_raw;
use crate::mcp::message::RequestId;
use crate::secret::Plaintext;

/// More than anything here takes.
const SOON: Duration = Duration::from_secs(20);

const SCRIPT: &str = r#"
[ -z "$ALONE" ] || { trap 'rmdir "$ALONE"; exit' TERM; mkdir "$ALONE" || echo "$API_KEY" >>"$ALONE.log"; }
while IFS= read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  case $line in
    *'"server/discover"'*) r='{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}' ;;
    *'"name":"end"'*) exit 3 ;;
    *'"name":"silent"'*) continue ;;
    *'"tools/call"'*) r="{\"content\":[],\"key\":\"$API_KEY\",\"home\":\"$HOME\"}" ;;
    *) continue ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$r"
done
[ -z "$ALONE" ] || { sleep 0.2; rmdir "$ALONE"; }
"#;

/// Lends what a test says.
#[derive(Debug, Default)]
struct Lending(Mutex<HashMap<Principal, Arc<Lent>>>);

impl Lending {
    fn give(&self, principal: &Principal, revision: u64, value: &str) -> Party {
        let place = Place { holder: Holder::Of(principal.clone()), upstream: name() };
        let lent = Arc::new(Lent {
            place,
            connection: ConnectionId::parse(&"0a".repeat(12)).unwrap(),
            revision,
            given: revision,
            scopes: Vec::new(),
            headers: Vec::new(),
            variables: vec![("API_KEY".to_owned(), Plaintext::new(value))],
        });
        self.0.lock().unwrap().insert(principal.clone(), lent.clone());
        Party { principal: principal.clone(), lent: Some(lent), ..Party::gateway() }
    }

    fn take(&self, principal: &Principal) {
        self.0.lock().unwrap().remove(principal);
    }
}

impl Lender for Lending {
    fn lend<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        let Holder::Of(principal) = &wanted.place.holder else { panic!("nobody shares a child") };
        let lent = self.0.lock().unwrap().get(principal).cloned();
        Box::pin(async move { lent.ok_or(Withheld::Missing(Lack::NotConnected)) })
    }

    fn rejected<'a>(
        &'a self,
        _: &'a Wanted,
        _: &'a Lent,
        _: &'a Rejected,
    ) -> BoxFuture<'a, Result<Arc<Lent>, Withheld>> {
        Box::pin(async { Err(Withheld::Fault) })
    }
}

fn name() -> UpstreamName {
    UpstreamName::parse("child").unwrap()
}

fn key(name: &str) -> Principal {
    Principal::Key(KeyName::parse(name).unwrap())
}

struct Rig {
    dir: TempDir,
    lending: Arc<Lending>,
    programs: Arc<Programs>,
    tasks: Tasks,
}

fn rig(most: usize) -> Rig {
    rig_with(most, |_| BTreeMap::new())
}

/// The same with these variables, given the directory of the test.
fn rig_with(most: usize, environment: impl FnOnce(&Path) -> BTreeMap<String, Plaintext>) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let environment = environment(dir.path());
    let text = "[upstreams.child]\ncommand = ['x']\n";
    let config = config::parse(text, Path::new("/"), &|_: &str| None, Env::system().now()).unwrap();
    let auth = UpstreamAuth::PerUserEnvironment { names: vec!["API_KEY".to_owned()], max_programs: most };
    let settings = config::Upstream { auth, ..config.upstreams[0].clone() };
    let program = Program {
        name: name(),
        command: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
        environment,
        working_dir: None,
        start_timeout: SOON,
        private_dir: dir.path().join("each"),
        limit: 1024 * 1024,
        bounds: Bounds::default(),
        era: None,
    };
    let (lending, tasks) = (Arc::new(Lending::default()), Tasks::new());
    let own = Arc::new(Own::new(&settings, lending.clone()));
    let shared = Shared { program, most, own, signals: Signals::default() };
    let programs = Arc::new(Programs::new(shared, &tasks));
    Rig { dir, lending, programs, tasks }
}

impl Rig {
    async fn call(&self, party: &Party, tool: &str) -> Result<Value, UpstreamError> {
        let (events, _heard) = mpsc::channel(8);
        let mut params = Params::default();
        params.members.set("name", to_raw(&tool));
        let exchange = Exchange {
            id: RequestId::number(0),
            method: "tools/call",
            name: None,
            headers: Vec::new(),
            params,
            via: Via { party: party.clone(), events, cancelled: CancellationToken::new() },
            deadline: Deadline::after(SOON, SOON),
        };
        match self.programs.exchange(exchange).await? {
            Outcome::Result(result) => Ok(serde_json::from_str(result.get()).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    async fn key(&self, party: &Party) -> String {
        self.call(party, "tell").await.unwrap()["key"].as_str().unwrap().to_owned()
    }

    fn count(&self) -> usize {
        self.programs.0.lock().len()
    }

    fn homes(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("each")).map_or(0, Iterator::count)
    }

    async fn until_homes(&self, wanted: usize) {
        let waiting = async {
            while self.homes() != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{} homes", self.homes()));
    }

    async fn stop(self) {
        assert!(self.tasks.stop(SOON).await);
        self.programs.end_all(SOON).await;
        assert_eq!(self.homes(), 0, "nothing is left");
    }
}

#[tokio::test]
async fn each_principal_has_a_child_with_its_own_values_and_home() {
    let rig = rig(16);
    let (anna, ben) = (rig.lending.give(&key("anna"), 1, "of-anna"), rig.lending.give(&key("ben"), 1, "of-ben"));
    let gateway = Party::gateway();
    rig.programs.about(&Deadline::after(SOON, SOON)).await.unwrap();
    let told =
        futures_util::future::join_all([&anna, &ben, &gateway, &anna].map(|party| rig.call(party, "tell"))).await;
    let told: Vec<Value> = told.into_iter().map(Result::unwrap).collect();
    let keys: Vec<&str> = told.iter().map(|told| told["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["of-anna", "of-ben", "", "of-anna"]);
    assert_eq!(told[0]["home"], told[3]["home"]);
    assert!(told[0]["home"] != told[1]["home"] && told[1]["home"] != told[2]["home"]);
    assert_eq!((rig.count(), rig.homes()), (3, 3));
    let nobody = Party { principal: key("carl"), ..Party::gateway() };
    let refused = rig.call(&nobody, "tell").await;
    assert!(matches!(refused, Err(UpstreamError::Withheld(Withheld::Missing(Lack::NotConnected)))), "{refused:?}");
    rig.stop().await;
}

#[tokio::test]
async fn the_end_of_a_child_is_one_principals_alone() {
    let rig = rig(16);
    let (anna, ben) = (rig.lending.give(&key("anna"), 1, "of-anna"), rig.lending.give(&key("ben"), 1, "of-ben"));
    let (_, home) = (rig.key(&anna).await, rig.call(&ben, "tell").await.unwrap()["home"].clone());
    assert!(matches!(rig.call(&anna, "end").await, Err(UpstreamError::Died)));
    assert_eq!(rig.call(&ben, "tell").await.unwrap()["home"], home);
    rig.stop().await;
}

#[tokio::test]
async fn values_that_are_new_or_gone_end_the_child_that_had_the_old_ones() {
    let rig = rig(16);
    let old = rig.lending.give(&key("anna"), 1, "old");
    assert_eq!(rig.key(&old).await, "old");
    let new = rig.lending.give(&key("anna"), 2, "new");
    assert_eq!(rig.key(&new).await, "new");
    assert_eq!(rig.key(&old).await, "new", "a request that is late starts nothing anew");
    rig.until_homes(1).await;
    rig.programs.0.end_outdated().await;
    assert_eq!(rig.count(), 1, "what is lent still stays");
    rig.lending.take(&key("anna"));
    rig.programs.0.end_outdated().await;
    assert_eq!(rig.count(), 0);
    rig.until_homes(0).await;
    // The gateway's own begins without values, and anew when it is given some.
    rig.programs.about(&Deadline::after(SOON, SOON)).await.unwrap();
    rig.programs.0.end_outdated().await;
    assert_eq!((rig.key(&Party::gateway()).await.as_str(), rig.count()), ("", 1));
    let own = rig.lending.give(&Principal::Gateway, 1, "own");
    assert_eq!(rig.key(&own).await, "own");
    rig.stop().await;
}

#[tokio::test]
async fn children_are_bounded_and_make_room_where_they_are_idle() {
    let rig = rig(1);
    let (anna, ben) = (rig.lending.give(&key("anna"), 1, "of-anna"), rig.lending.give(&key("ben"), 1, "of-ben"));
    rig.programs.about(&Deadline::after(SOON, SOON)).await.unwrap();
    assert_eq!(rig.key(&anna).await, "of-anna");
    assert_eq!(rig.key(&ben).await, "of-ben");
    assert_eq!(rig.count(), 2, "the gateway's does not count");
    tokio::select! {
        _ = rig.call(&ben, "silent") => panic!("it says nothing"),
        () = async {
            while rig.programs.0.lock()[&key("ben")].idle_since().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(matches!(rig.call(&anna, "tell").await, Err(UpstreamError::Busy)));
        } => {}
    }
    assert_eq!(rig.key(&anna).await, "of-anna");
    rig.stop().await;
}

#[tokio::test]
async fn a_child_has_its_place_until_its_process_is_gone() {
    let alone = |dir: &Path| {
        let path = dir.join("alone").to_str().unwrap().to_owned();
        BTreeMap::from([("ALONE".to_owned(), Plaintext::new(path))])
    };
    let rig = rig_with(1, alone);
    let (anna, ben) = (rig.lending.give(&key("anna"), 1, "of-anna"), rig.lending.give(&key("ben"), 1, "of-ben"));
    assert_eq!(rig.key(&anna).await, "of-anna");
    // Several wait for one place, which one child of theirs has then.
    let told = futures_util::future::join_all((0..4).map(|_| rig.key(&ben))).await;
    assert_eq!(told, ["of-ben"; 4]);
    let new = rig.lending.give(&key("ben"), 2, "new");
    assert_eq!(rig.key(&new).await, "new", "its successor waits for it as well");
    assert_eq!(rig.key(&anna).await, "of-anna");
    assert_eq!(std::fs::read_to_string(rig.dir.path().join("alone.log")).unwrap_or_default(), "", "two at once");
    rig.until_homes(1).await;
    rig.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_place_in_vain_is_told_and_holds_nothing() {
    let rig = rig(1);
    let anna = rig.lending.give(&key("anna"), 1, "of-anna");
    let place = rig.programs.0.places.clone().acquire_owned().await.unwrap();
    tokio::time::pause();
    let refused = rig.call(&anna, "tell").await;
    assert!(matches!(refused, Err(UpstreamError::Busy)), "{refused:?}");
    tokio::time::resume();
    drop(place);
    assert_eq!(rig.key(&anna).await, "of-anna");
    rig.stop().await;
}

//! One decision, step by step.

use std::collections::BTreeSet;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};

use super::super::desk::{Answer, Desk, Head};
use super::super::fields::page;
use super::super::known::Named;
use super::super::{Person, text, words};
use super::{PATH, asking, explain, to_the_second};
use crate::http::api::recordings;
use crate::http::api::trails::{self, DecisionView};
use crate::http::oauth::pages::Site;
use crate::identity::user::Role;
use crate::ids::BindingName;

/// Where policies have their pages, and where they are tried.
const POLICIES: &str = "/policies/bindings";
const TRIAL: &str = "/policies/try";
/// Digits of a digest that tell modules apart for people.
const SHORT_DIGEST: usize = 12;

#[derive(Template)]
#[template(path = "console/decision.html")]
struct ShowPage<'a> {
    site: &'a Site,
    head: Head<'a>,
    decision: DecisionView,
    sentence: String,
    advice: Vec<explain::Advice>,
    who: Named,
    /// Where the page of the upstream is, if it is still there.
    upstream_page: Option<String>,
    /// Pages of policies that are still bound.
    policy_pages: BTreeSet<String>,
    /// Where policies are asked the same again, or of a call like this one, by whoever may ask them.
    trial: Option<String>,
    is_recorded: bool,
    /// Where the recording is asked for.
    recording_path: String,
}

impl ShowPage<'_> {
    fn badge(&self, verdict: &str) -> &'static str {
        explain::badge(verdict)
    }

    fn parts<'t>(&self, text: &'t str) -> Vec<(bool, &'t str)> {
        words::parts(text)
    }

    fn at(&self, at: &str) -> String {
        to_the_second(at)
    }

    fn short<'t>(&self, digest: &'t str) -> &'t str {
        digest.get(..SHORT_DIGEST).unwrap_or(digest)
    }

    /// The decisions about the same principal.
    fn of_the_same(&self) -> String {
        asking(PATH, "principal", &self.decision.principal)
    }

    fn page_of_policy(&self, name: &BindingName) -> Option<&str> {
        self.policy_pages.get(&page(POLICIES, name.as_str())).map(String::as_str)
    }
}

pub(super) async fn show(
    State(desk): State<Desk>,
    Extension(person): Extension<Person>,
    Path(id): Path<String>,
) -> Answer {
    let decision = trails::decision(&desk.api, &id).await?;
    let is_recorded = recordings::is_there(&desk.api, &decision.id).await?;
    let who = desk.known(&[&decision.principal]).await?.who(&decision.principal);
    let upstream_page = decision.upstream.as_ref().and_then(|name| desk.page_of_upstream(name.as_str()));
    let policies = decision.steps.iter().filter_map(|step| desk.page_of_policy(step.policy.as_str()));
    let policy_pages: BTreeSet<String> = policies.collect();
    let may_decide = person.user.role >= Role::Operator;
    let is_there = |link: &str| match link.rsplit_once('/') {
        Some(("/upstreams", _)) => upstream_page.as_deref() == Some(link),
        Some((POLICIES, _)) => policy_pages.contains(link),
        Some(("/keys" | "/people", _)) => who.page.as_deref() == Some(link),
        _ => true,
    };
    Ok(desk.page(ShowPage {
        site: desk.site(),
        head: desk.head(&person, PATH),
        sentence: explain::sentence(&decision, &who.name),
        advice: explain::advice(&decision, may_decide).into_iter().map(|advice| advice.that_leads(is_there)).collect(),
        trial: trial_of(&decision, is_recorded).filter(|_| may_decide),
        recording_path: format!("{PATH}/{}/recording", decision.id),
        decision,
        is_recorded,
        who,
        upstream_page,
        policy_pages,
    }))
}

/// Where a call is tried again: as it was recorded, or else typed anew with what is known of it.
fn trial_of(decision: &DecisionView, is_recorded: bool) -> Option<String> {
    let (upstream, tool) = (decision.upstream.as_ref()?, decision.tool.as_ref()?);
    if decision.operation != "tools/call" {
        return None;
    }
    if is_recorded {
        return Some(asking(TRIAL, "decision", &decision.id));
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("principal", &decision.principal).append_pair("upstream", upstream.as_str());
    Some(format!("{TRIAL}?{}", query.append_pair("tool", tool).finish()))
}

//! The policy: which rule decides, and what its action is in each hook.

use cel::{Context as Scope, Env};
use policy_scripted::{Situation, Subject};
use portcullis_guest_sdk::{
    Access, Approval, Call, CallResult, Client, Context, Credential, Denial, Grant, Hook, Inspection, Item, ItemAccess,
    ItemOutput, ItemResult, ListItems, ListTools, Listing, Manifest, Need, Permit, Policy, Problem, Question,
    Redaction, Refresh, SelfTests, ServerRequest, StepUp, Throttle, Tool, ToolCall, ToolResult, Verdict, Visibility,
    client, credential, export, grant, log, refresh,
};

use std::sync::Arc;

use crate::action::{Action, Allowance, Consent};
use crate::config::{Config, Otherwise};
use crate::expression::Failure;
use crate::facts::Facts;
use crate::functions::env;
use crate::rules::{Rule, rules};

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");
/// A few of `cases.json`: that the module works where it is loaded, not that every rule does.
const SELF_TESTS: &str = include_str!("../self-tests.json");

/// The policy.
pub struct Cel {
    rules: Vec<Rule>,
    otherwise: Otherwise,
    env: Arc<Env>,
}

/// What the rules say, with every refusal made out.
enum Answer<'r> {
    Abstain,
    Allow(Option<&'r Allowance>),
    Consent(&'r Consent),
    Deny(Denial),
    StepUp(StepUp),
    Approve(Approval),
    Throttle(Throttle),
    Redact(Redaction),
}

/// A rule that cannot be evaluated.
struct Broken<'r> {
    rule: &'r Rule,
    why: Failure,
}

impl Broken<'_> {
    fn denial(self) -> Denial {
        let (name, why) = (&self.rule.name, &self.why.0);
        log::warn(format!("rule {name} cannot be evaluated: {why}"));
        Denial::new("cel.error", format!("The gateway's rule `{name}` cannot be evaluated: {why}.")).rule(&**name)
    }
}

impl Cel {
    /// Follows the rules and makes of their answer what `take` says; a failure there is one of the rule.
    fn decide<T>(
        &self,
        context: &Context,
        subject: Subject<'_>,
        take: impl FnOnce(Answer<'_>, &Scope<'_, '_>, &Facts<'_>) -> Result<T, Failure>,
        refuse: impl FnOnce(Denial) -> T,
    ) -> T {
        let situation = Situation::new(context, subject);
        let facts = Facts::of(&situation);
        let mut scope = Scope::with_env(self.env.clone());
        scope.set_variable_resolver(&facts);
        match self.first(&scope, &facts) {
            Err(broken) => refuse(broken.denial()),
            Ok((answer, rule)) => match (take(answer, &scope, &facts), rule) {
                (Ok(taken), _) => taken,
                (Err(why), Some(rule)) => refuse(Broken { rule, why }.denial()),
                (Err(Failure(why)), None) => refuse(Denial::new("cel.error", why)),
            },
        }
    }

    /// The answer of the first rule that matches, and the rule. Redactions add up until a rule says something else.
    fn first<'r, 'v>(
        &'r self,
        scope: &Scope<'_, 'v>,
        facts: &'v Facts<'_>,
    ) -> Result<(Answer<'r>, Option<&'r Rule>), Broken<'r>> {
        let Situation { context, subject, .. } = facts.situation();
        let hook = subject.hook();
        let mut redacted: Option<(Redaction, &Rule)> = None;
        for rule in self.rules.iter().filter(|rule| rule.hooks.contains(&hook)) {
            let broken = |why| Broken { rule, why };
            if !rule.matches(context, scope).map_err(broken)? {
                continue;
            }
            let answer = match &rule.action {
                Action::Redact(blackout) => {
                    let (redaction, _) = redacted.get_or_insert_with(|| (Redaction::new(), rule));
                    blackout.redact(redaction, scope, facts).map_err(broken)?;
                    continue;
                }
                Action::Abstain | Action::Allow(_) if redacted.is_some() => break,
                Action::Abstain => Answer::Abstain,
                Action::Allow(terms) => Answer::Allow(Some(terms)),
                Action::Consent(consent) => Answer::Consent(consent),
                Action::Deny(refusal) => Answer::Deny(refusal.denial(scope).map_err(broken)?),
                Action::StepUp(demand) => Answer::StepUp(demand.step_up(scope).map_err(broken)?),
                Action::Approve(question) => Answer::Approve(question.approval(scope).map_err(broken)?),
                Action::Throttle(brake) => Answer::Throttle(brake.throttle(scope).map_err(broken)?),
            };
            return Ok((answer, Some(rule)));
        }
        if let Some((redaction, rule)) = redacted {
            return Ok((Answer::Redact(redaction), Some(rule)));
        }
        let answer = match self.otherwise {
            Otherwise::Abstain => Answer::Abstain,
            Otherwise::Allow => Answer::Allow(None),
            Otherwise::Deny => {
                Answer::Deny(Denial::new("cel.otherwise", "None of the gateway's rules allows this.").rule("otherwise"))
            }
        };
        Ok((answer, None))
    }

    fn verdict(&self, context: &Context, subject: Subject<'_>) -> Verdict {
        self.decide(
            context,
            subject,
            |answer, scope, facts| {
                Ok(match answer {
                    Answer::Abstain => Verdict::Abstain,
                    Answer::Allow(Some(terms)) => terms.permit(scope, facts)?.into(),
                    Answer::Allow(None) => Permit::new().into(),
                    Answer::Deny(denial) => denial.into(),
                    Answer::StepUp(step_up) => step_up.into(),
                    Answer::Approve(approval) => approval.into(),
                    Answer::Throttle(throttle) => throttle.into(),
                    Answer::Redact(_) | Answer::Consent(_) => return Err(misplaced()),
                })
            },
            Verdict::from,
        )
    }

    fn inspection(&self, context: &Context, subject: Subject<'_>) -> Inspection {
        self.decide(
            context,
            subject,
            |answer, _, _| {
                Ok(match answer {
                    Answer::Abstain => Inspection::Abstain,
                    Answer::Allow(_) => Inspection::Pass,
                    Answer::Deny(denial) => denial.into(),
                    Answer::Redact(redaction) => redaction.into(),
                    _ => return Err(misplaced()),
                })
            },
            Inspection::from,
        )
    }
}

impl Rule {
    /// A demand that was met is none any more: the rules after it decide.
    fn matches(&self, context: &Context, scope: &Scope<'_, '_>) -> Result<bool, Failure> {
        let met = match &self.action {
            Action::StepUp(demand) => context.is_satisfied(&demand.why.code),
            Action::Approve(question) => context.is_satisfied(&question.why.code),
            _ => false,
        };
        match &self.when {
            _ if met => Ok(false),
            Some(when) => when.is_true(scope),
            None => Ok(true),
        }
    }
}

/// `configure` lets no action pass that a hook does not have.
fn misplaced() -> Failure {
    Failure("what it does has no place in this hook".to_owned())
}

impl Policy for Cel {
    type Config = Config;

    /// The host asks for it before there are rules, so each hook needs what any rule of it could look at. Titles,
    /// descriptions and schemas go to `list-tools` alone: a tool that is hidden there cannot be called either.
    fn manifest() -> Manifest {
        let of = |hook| Need::of(hook).claim("*");
        Manifest::new("cel", env!("CARGO_PKG_VERSION"), "Follows rules in the Common Expression Language")
            .license("Apache-2.0")
            .config(SCHEMA, SAMPLE)
            .needs(of(Hook::ListTools).texts())
            .needs(of(Hook::ListItems))
            .needs(of(Hook::ToolCall).arguments())
            .needs(of(Hook::ToolResult).output())
            .needs(of(Hook::ItemAccess).arguments())
            .needs(of(Hook::ItemResult).output())
            .needs(of(Hook::ServerRequest).arguments())
            .needs(of(Hook::Grant))
            .needs(of(Hook::Refresh))
            .needs(of(Hook::Client))
            .needs(of(Hook::Credential))
            .mutates(Hook::ListTools)
            .mutates(Hook::ToolCall)
            .mutates(Hook::ToolResult)
            .mutates(Hook::ItemResult)
            .mutates(Hook::Client)
            .time_dependent()
    }

    fn configure(config: Config) -> Result<Self, Vec<Problem>> {
        let env = env();
        Ok(Self { rules: rules(config.rules, &env)?, otherwise: config.otherwise, env })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.rules.is_empty() {
            warnings.push("there are no rules".to_owned());
        }
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.when.is_some() || matches!(rule.action, Action::Redact(_) | Action::StepUp(_) | Action::Approve(_))
            {
                continue;
            }
            let after = &self.rules[at + 1..];
            if let Some(never) = after.iter().find(|never| never.hooks.iter().all(|hook| rule.hooks.contains(hook))) {
                warnings.push(format!("rule {} always matches, so that {} never applies", rule.name, never.name));
            }
        }
        warnings
    }
}

impl ListTools for Cel {
    fn list(&self, ctx: &Context, tool: &Tool) -> Listing {
        self.decide(
            ctx,
            Subject::ListTools(tool),
            |answer, scope, _| {
                Ok(match answer {
                    Answer::Abstain => Listing::abstain(),
                    Answer::Allow(terms) => {
                        let (title, description) = terms.map_or(Ok((None, None)), |terms| terms.texts(scope))?;
                        Listing { visibility: Visibility::Show, title, description }
                    }
                    Answer::Deny(_) => Listing::hide(),
                    _ => return Err(misplaced()),
                })
            },
            |_| Listing::hide(),
        )
    }
}

impl ListItems for Cel {
    fn list(&self, ctx: &Context, item: &Item) -> Visibility {
        self.decide(
            ctx,
            Subject::ListItems(item),
            |answer, _, _| {
                Ok(match answer {
                    Answer::Abstain => Visibility::Abstain,
                    Answer::Allow(_) => Visibility::Show,
                    Answer::Deny(_) => Visibility::Hide,
                    _ => return Err(misplaced()),
                })
            },
            |_| Visibility::Hide,
        )
    }
}

impl ToolCall for Cel {
    fn before(&self, ctx: &Context, call: &Call) -> Verdict {
        self.verdict(ctx, Subject::ToolCall(call))
    }
}

impl ItemAccess for Cel {
    fn before(&self, ctx: &Context, access: &Access) -> Verdict {
        self.verdict(ctx, Subject::ItemAccess(access))
    }
}

impl ServerRequest for Cel {
    fn before(&self, ctx: &Context, question: &Question) -> Verdict {
        self.verdict(ctx, Subject::ServerRequest(question))
    }
}

impl ToolResult for Cel {
    fn after(&self, ctx: &Context, result: &CallResult) -> Inspection {
        self.inspection(ctx, Subject::ToolResult(result))
    }
}

impl ItemResult for Cel {
    fn after(&self, ctx: &Context, output: &ItemOutput) -> Inspection {
        self.inspection(ctx, Subject::ItemResult(output))
    }
}

impl Grant for Cel {
    fn authorize(&self, ctx: &Context, request: &grant::Request) -> grant::Decision {
        self.decide(
            ctx,
            Subject::Grant(request),
            |answer, scope, _| {
                Ok(match answer {
                    Answer::Abstain => grant::Decision::Abstain,
                    Answer::Allow(None) => grant::Terms::requested(request).into(),
                    Answer::Allow(Some(terms)) => terms.grant(scope, terms.narrowing.grant(request))?.into(),
                    Answer::Consent(consent) => consent.consent(scope, consent.terms.narrowing.grant(request))?.into(),
                    Answer::Deny(denial) => denial.into(),
                    Answer::StepUp(step_up) => step_up.into(),
                    Answer::Approve(approval) => approval.into(),
                    _ => return Err(misplaced()),
                })
            },
            grant::Decision::from,
        )
    }
}

impl Refresh for Cel {
    fn renew(&self, ctx: &Context, request: &refresh::Request) -> refresh::Decision {
        self.decide(
            ctx,
            Subject::Refresh(request),
            |answer, scope, _| {
                Ok(match answer {
                    Answer::Abstain => refresh::Decision::Abstain,
                    Answer::Allow(None) => refresh::Terms::granted(request).into(),
                    Answer::Allow(Some(terms)) => terms.grant(scope, terms.narrowing.refresh(request))?.into(),
                    Answer::Deny(denial) => denial.into(),
                    Answer::StepUp(step_up) => step_up.into(),
                    _ => return Err(misplaced()),
                })
            },
            refresh::Decision::from,
        )
    }
}

impl Client for Cel {
    fn register(&self, ctx: &Context, request: &client::Request) -> client::Decision {
        self.decide(
            ctx,
            Subject::Client(request),
            |answer, scope, _| {
                Ok(match answer {
                    Answer::Abstain => client::Decision::Abstain,
                    Answer::Allow(None) => client::Decision::allow(),
                    Answer::Allow(Some(terms)) => {
                        client::Decision::allow_edited(terms.metadata(scope, &request.metadata)?)
                    }
                    Answer::Deny(denial) => denial.into(),
                    Answer::Approve(approval) => approval.into(),
                    _ => return Err(misplaced()),
                })
            },
            client::Decision::from,
        )
    }
}

impl Credential for Cel {
    fn release(&self, ctx: &Context, request: &credential::Request) -> credential::Decision {
        self.decide(
            ctx,
            Subject::Credential(request),
            |answer, _, _| {
                Ok(match answer {
                    Answer::Abstain => credential::Decision::Abstain,
                    Answer::Allow(None) => credential::Terms::requested(request).into(),
                    Answer::Allow(Some(terms)) => {
                        let mut released = terms.narrowing.credential(request);
                        released.max_age_s = terms.max_age_s;
                        released.into()
                    }
                    Answer::Deny(denial) => denial.into(),
                    Answer::StepUp(step_up) => step_up.into(),
                    Answer::Approve(approval) => approval.into(),
                    _ => return Err(misplaced()),
                })
            },
            credential::Decision::from,
        )
    }
}

impl SelfTests for Cel {
    const CASES: &'static str = SELF_TESTS;
}

export!(Cel with list_tools, list_items, tool_call, tool_result, item_access, item_result, server_request, grant, refresh, client, credential, self_tests);

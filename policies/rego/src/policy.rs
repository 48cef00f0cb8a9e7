//! The policy: what the rules of a hook's package say, in the order of what weighs most.
//!
//! A refusal weighs more than a throttle, that more than an approval, a step-up, a consent and an allowance, as it does
//! among policies.

use policy_scripted::{Situation, Subject, limits};
use portcullis_guest_sdk::serde_json::{self, Value};
use portcullis_guest_sdk::{
    Access, Call, CallResult, Client, Context, Credential, Denial, Grant, Hook, Inspection, Item, ItemAccess,
    ItemOutput, ItemResult, ListItems, ListTools, Listing, Manifest, Need, Part, Policy, Problem, Question, Refresh,
    SelfTests, ServerRequest, Tool, ToolCall, ToolResult, Verdict, Visibility, client, credential, export, grant, log,
    refresh,
};

use crate::answer::{Allowed, Answers, GrantTerms, ReleaseTerms};
use crate::modules::{Config, Failure, Modules};

const SCHEMA: &str = include_str!("../schema.json");
const SAMPLE: &str = include_str!("../sample.json");
/// A few of `cases.json`: that the module works where it is loaded, not that every rule does.
const SELF_TESTS: &str = include_str!("../self-tests.json");

/// The policy.
pub struct Rego {
    modules: Modules,
}

impl Rego {
    /// What the rules make of `subject`, read by `take`; `abstain` where there is no package for the hook.
    fn decide<T>(
        &self,
        context: &Context,
        subject: Subject<'_>,
        take: impl FnOnce(&mut Answers) -> Result<T, Failure>,
        (abstain, refuse): (T, impl FnOnce(Denial) -> T),
    ) -> T {
        if !self.modules.answers(subject.hook()) {
            return abstain;
        }
        let answer = self.modules.ask(&Situation::new(context, subject)).and_then(|answers| {
            let mut answers = Answers(answers);
            let taken = take(&mut answers)?;
            answers.warnings().into_iter().for_each(log::warn);
            Ok(taken)
        });
        answer.unwrap_or_else(|Failure(why)| {
            let why = format!("The gateway's rules for {} cannot be evaluated: {why}.", subject.hook().as_str());
            log::warn(&why);
            refuse(Denial::new("rego.error", why))
        })
    }

    fn verdict(&self, context: &Context, subject: Subject<'_>, arguments: Option<&str>) -> Verdict {
        let take = |answers: &mut Answers| {
            if let Some(denial) = answers.denial()? {
                return Ok(denial.into());
            }
            if let Some(throttle) = answers.throttle()? {
                return Ok(throttle.into());
            }
            if let Some(approval) = answers.approval(&context.satisfied)? {
                return Ok(approval.into());
            }
            if let Some(step_up) = answers.step_up(&context.satisfied)? {
                return Ok(step_up.into());
            }
            Ok(match answers.allowed() {
                Allowed::Unsaid => Verdict::Abstain,
                Allowed::No => not_allowed().into(),
                Allowed::Yes(terms) => answers.permit(terms, document(arguments).as_ref())?.into(),
            })
        };
        self.decide(context, subject, take, (Verdict::Abstain, Verdict::from))
    }

    fn inspection(&self, ctx: &Context, subject: Subject<'_>, parts: &[Part], structured: Option<&str>) -> Inspection {
        let take = |answers: &mut Answers| {
            if let Some(denial) = answers.denial()? {
                return Ok(denial.into());
            }
            let allowed = answers.allowed();
            if matches!(allowed, Allowed::No) {
                return Ok(not_allowed().into());
            }
            if let Some(redaction) = answers.redaction(parts, document(structured).as_ref())? {
                return Ok(redaction.into());
            }
            Ok(if matches!(allowed, Allowed::Yes(_)) { Inspection::Pass } else { Inspection::Abstain })
        };
        self.decide(ctx, subject, take, (Inspection::Abstain, Inspection::from))
    }
}

/// Whether something is listed.
fn visibility(answers: &mut Answers) -> Visibility {
    let (hide, visible) = (answers.is("hide"), answers.is("visible"));
    match (hide, visible) {
        (Some(true), _) | (_, Some(false)) => Visibility::Hide,
        (_, Some(true)) => Visibility::Show,
        (_, None) => Visibility::Abstain,
    }
}

/// `allow` is `false`: somebody wrote that this is not allowed, which is more than saying nothing.
fn not_allowed() -> Denial {
    Denial::new("rego.denied", "The gateway's rules do not allow this.").rule("allow")
}

fn document(text: Option<&str>) -> Option<Value> {
    text.and_then(|text| serde_json::from_str(text).ok())
}

impl Policy for Rego {
    type Config = Config;

    /// The host asks for it before there are modules, so each hook needs what any rule of it could look at. Titles,
    /// descriptions and schemas go to `list-tools` alone: a tool that is hidden there cannot be called either.
    fn manifest() -> Manifest {
        let of = |hook| Need::of(hook).claim("*");
        Manifest::new("rego", env!("CARGO_PKG_VERSION"), "Follows rules in Rego")
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
        Modules::load(&config).map(|modules| Self { modules })
    }
}

impl ListTools for Rego {
    fn list(&self, ctx: &Context, tool: &Tool) -> Listing {
        let take = |answers: &mut Answers| {
            let visibility = visibility(answers);
            let (title, description) = match visibility {
                Visibility::Hide => (None, None),
                _ => (answers.text("title", limits::TITLE)?, answers.text("description", limits::DESCRIPTION)?),
            };
            Ok(Listing { visibility, title, description })
        };
        self.decide(ctx, Subject::ListTools(tool), take, (Listing::abstain(), |_| Listing::hide()))
    }
}

impl ListItems for Rego {
    fn list(&self, ctx: &Context, item: &Item) -> Visibility {
        let take = |answers: &mut Answers| Ok(visibility(answers));
        self.decide(ctx, Subject::ListItems(item), take, (Visibility::Abstain, |_| Visibility::Hide))
    }
}

impl ToolCall for Rego {
    fn before(&self, ctx: &Context, call: &Call) -> Verdict {
        self.verdict(ctx, Subject::ToolCall(call), call.arguments.as_deref())
    }
}

impl ItemAccess for Rego {
    fn before(&self, ctx: &Context, access: &Access) -> Verdict {
        self.verdict(ctx, Subject::ItemAccess(access), None)
    }
}

impl ServerRequest for Rego {
    fn before(&self, ctx: &Context, question: &Question) -> Verdict {
        self.verdict(ctx, Subject::ServerRequest(question), None)
    }
}

impl ToolResult for Rego {
    fn after(&self, ctx: &Context, result: &CallResult) -> Inspection {
        self.inspection(ctx, Subject::ToolResult(result), &result.parts, result.structured.as_deref())
    }
}

impl ItemResult for Rego {
    fn after(&self, ctx: &Context, output: &ItemOutput) -> Inspection {
        self.inspection(ctx, Subject::ItemResult(output), &output.parts, None)
    }
}

impl Grant for Rego {
    fn authorize(&self, ctx: &Context, request: &grant::Request) -> grant::Decision {
        let take = |answers: &mut Answers| {
            if let Some(denial) = answers.denial()? {
                return Ok(denial.into());
            }
            if let Some(approval) = answers.approval(&ctx.satisfied)? {
                return Ok(approval.into());
            }
            if let Some(step_up) = answers.step_up(&ctx.satisfied)? {
                return Ok(step_up.into());
            }
            if let Some(consent) = answers.consent(|narrowing| narrowing.grant(request))? {
                return Ok(consent.into());
            }
            Ok(match answers.allowed() {
                Allowed::Unsaid => grant::Decision::Abstain,
                Allowed::No => not_allowed().into(),
                Allowed::Yes(terms) => GrantTerms::read(terms)?.grant(|narrowing| narrowing.grant(request)).into(),
            })
        };
        self.decide(ctx, Subject::Grant(request), take, (grant::Decision::Abstain, grant::Decision::from))
    }
}

impl Refresh for Rego {
    fn renew(&self, ctx: &Context, request: &refresh::Request) -> refresh::Decision {
        let take = |answers: &mut Answers| {
            if let Some(denial) = answers.denial()? {
                return Ok(denial.into());
            }
            if let Some(step_up) = answers.step_up(&ctx.satisfied)? {
                return Ok(step_up.into());
            }
            Ok(match answers.allowed() {
                Allowed::Unsaid => refresh::Decision::Abstain,
                Allowed::No => not_allowed().into(),
                Allowed::Yes(terms) => GrantTerms::read(terms)?.grant(|narrowing| narrowing.refresh(request)).into(),
            })
        };
        self.decide(ctx, Subject::Refresh(request), take, (refresh::Decision::Abstain, refresh::Decision::from))
    }
}

impl Client for Rego {
    fn register(&self, ctx: &Context, request: &client::Request) -> client::Decision {
        let take = |answers: &mut Answers| {
            if let Some(denial) = answers.denial()? {
                return Ok(denial.into());
            }
            if let Some(approval) = answers.approval(&ctx.satisfied)? {
                return Ok(approval.into());
            }
            Ok(match answers.allowed() {
                Allowed::Unsaid => client::Decision::Abstain,
                Allowed::No => not_allowed().into(),
                Allowed::Yes(_) => {
                    client::Decision::allow_edited(answers.edits(document(Some(&request.metadata)).as_ref())?)
                }
            })
        };
        self.decide(ctx, Subject::Client(request), take, (client::Decision::Abstain, client::Decision::from))
    }
}

impl Credential for Rego {
    fn release(&self, ctx: &Context, request: &credential::Request) -> credential::Decision {
        let take = |answers: &mut Answers| {
            if let Some(denial) = answers.denial()? {
                return Ok(denial.into());
            }
            if let Some(approval) = answers.approval(&ctx.satisfied)? {
                return Ok(approval.into());
            }
            if let Some(step_up) = answers.step_up(&ctx.satisfied)? {
                return Ok(step_up.into());
            }
            Ok(match answers.allowed() {
                Allowed::Unsaid => credential::Decision::Abstain,
                Allowed::No => not_allowed().into(),
                Allowed::Yes(terms) => {
                    let terms = ReleaseTerms::read(terms)?;
                    let mut released = terms.narrowing().credential(request);
                    released.max_age_s = terms.max_age_s;
                    released.into()
                }
            })
        };
        self.decide(
            ctx,
            Subject::Credential(request),
            take,
            (credential::Decision::Abstain, credential::Decision::from),
        )
    }
}

impl SelfTests for Rego {
    const CASES: &'static str = SELF_TESTS;
}

export!(Rego with list_tools, list_items, tool_call, tool_result, item_access, item_result, server_request, grant, refresh, client, credential, self_tests);

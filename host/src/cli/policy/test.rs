//! Cases, tried on a module.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::super::print;
use super::{OneModule, read_at_most};
use crate::config::Reuse;
use crate::policy::cases::{self, MAX_CASES_BYTES};
use crate::policy::{CaseProblem, Engine};

/// Try cases on a module: a list of {"name", "config", "hook", "input", "expect"}.
///
/// An answer is as expected if everything that the case says is in it: objects may have more members, lists match item by
/// item, all else is equal. A case with "refused": ["/pointer"] in place of "expect" says that its config is refused.
/// Fails if any case does.
#[derive(clap::Args)]
pub(in crate::cli) struct Test {
    #[command(flatten)]
    module: OneModule,
    /// The cases; without it, those that the module brings along. May be given several times.
    #[arg(long, value_name = "FILE")]
    cases: Vec<PathBuf>,
    /// Name the cases that pass, too.
    #[arg(long, short)]
    verbose: bool,
}

impl Test {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let engine = Engine::start(1)?;
        let bench = self.module.load(&engine)?;
        let mut cases = Vec::new();
        for file in &self.cases {
            let text = read_at_most(file, MAX_CASES_BYTES)?;
            cases.extend(cases::parse(&text).with_context(|| file.display().to_string())?);
        }
        if self.cases.is_empty() {
            cases = bench.self_tests()?;
            if cases.is_empty() {
                bail!("the module brings no cases along; name some with --cases FILE");
            }
        }
        // Only needed by cases that say nothing of a configuration.
        let configured = match cases.iter().any(|case| case.config.is_none()) {
            true => Some(self.module.configure(&bench, Reuse::Fresh)?),
            false => None,
        };
        let mut failed = 0;
        for case in &cases {
            let outcome = bench.try_case(case, configured.as_ref());
            match &outcome.problem {
                None if self.verbose => print(&format!("ok      {}", outcome.name))?,
                None => {}
                Some(problem) => {
                    failed += 1;
                    print(&format!("FAILED  {}", outcome.name))?;
                    show(problem)?;
                }
            }
        }
        print(&format!("{} passed, {failed} failed", cases.len() - failed))?;
        if failed > 0 {
            bail!("{failed} of {} cases failed", cases.len());
        }
        Ok(())
    }
}

fn show(problem: &CaseProblem) -> anyhow::Result<()> {
    match problem {
        CaseProblem::Differs { answer, differences } => {
            for difference in differences {
                print(&format!("        {difference}"))?;
            }
            print(&format!("        the answer was {answer}"))
        }
        CaseProblem::Invalid { answer, .. } => {
            print(&format!("        {problem}"))?;
            print(&format!("        the answer was {answer}"))
        }
        problem => print(&format!("        {problem}")),
    }
}

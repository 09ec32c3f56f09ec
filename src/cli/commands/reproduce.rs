//! `reproduce`: runs a session again and compares.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};

use crate::cli::commands::resume::name_and_value;
use crate::cli::commands::run_plan::{run_with_headings, show_end};
use crate::cli::global::GlobalArgs;
use crate::cli::output;
use crate::cli::table::table;
use crate::cli::text::Style;
use crate::params::interface::Interface;
use crate::pipeline::{Reproduction, check, reproduction};
use crate::session::runs_dir;

/// Run the steps of a session again in a new one, and compare what they made
#[derive(Args, Debug)]
pub(crate) struct ReproduceArgs {
    /// Name of the session
    session: String,
    /// Name of the new session [default: SESSION-again]
    #[arg(long, value_name = "NAME")]
    into: Option<String>,
    /// Secret that a step needs, such as api_key=...; may be repeated [default: PYRUST_NN_SECRET_NAME]
    #[arg(long = "secret", value_name = "NAME=VALUE", value_parser = name_and_value)]
    secrets: Vec<(String, Value)>,
}

impl ReproduceArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        let secrets: Map<String, Value> = self.secrets.into_iter().collect();
        let runs = global.runs_dir.as_deref();
        let plan = reproduction(runs, &self.session, self.into.as_deref(), &secrets, Interface::Cli)?;
        let copy = plan.session.clone();
        let names: Vec<String> = plan.steps.iter().map(|one| one.step().to_string()).collect();
        let outcomes = run_with_headings(plan, |_| {})?;
        if outcomes.iter().any(|one| one.summary.error.is_some()) {
            return Ok(show_end(&copy, global, &outcomes, &names));
        }
        let result = check(&runs_dir(runs), &self.session, &copy)?;
        if global.json {
            output::json(&serde_json::to_value(&result)?);
        } else {
            print(&result);
        }
        Ok(u8::from(!result.same))
    }
}

fn print(result: &Reproduction) {
    let mut rows = vec![["step", "compared", "result"].map(String::from)];
    rows.extend(result.steps.iter().map(|step| {
        let what = step.difference.clone().unwrap_or_else(|| "same".into());
        [step.step.clone(), step.compared.join(", "), what]
    }));
    table(&rows, None);
    let style = Style::of_stdout();
    let Reproduction { session, reproduced_as, .. } = result;
    match &result.likely_cause {
        None => output::line(&style.bold(&format!("same: session {reproduced_as} made what session {session} made"))),
        Some(cause) => {
            output::line(&style.bold(&format!("session {reproduced_as} differs from session {session}")));
            output::line(&format!("likely cause: {cause}"));
        }
    }
}

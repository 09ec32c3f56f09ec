//! The secrets of a session's steps. They are not written, so whoever resumes or reproduces the session gives them again: `--secret NAME=VALUE`, or the
//! environment variable `PYRUST_NN_SECRET_NAME`. Only steps that still run are asked for.

use anyhow::Result;
use serde_json::{Map, Value};

use crate::base::error;
use crate::base::secrets::REDACTED;
use crate::params::interface::Interface;
use crate::step::request::Request;

const VARIABLE: &str = "PYRUST_NN_SECRET_";

/// Puts the given secrets into the parameters of the steps. A secret's name is that of its parameter, such as `api_key`, within another
/// value with a dot, such as `service.token`, or with the step before it: `fetch/api_key`.
///
/// # Errors
/// Kind `usage`: secrets are missing (all are named), or one is given that no step needs.
pub(super) fn restore(steps: &mut [Request], given: &Map<String, Value>, interface: Interface) -> Result<()> {
    let mut restored = Restored { given, used: Vec::new(), missing: Vec::new() };
    for request in steps {
        let step = request.step().to_string();
        for (name, value) in &mut request.given {
            // The parameters of a script are named as in its PARAMS.
            match value {
                Value::Object(own) if name == "params" => own.iter_mut().for_each(|(name, value)| restored.fill(&step, name, value)),
                value => restored.fill(&step, name, value),
            }
        }
    }
    let Restored { used, mut missing, .. } = restored;
    missing.dedup();
    if let Some((step, name)) = missing.first() {
        let names: Vec<String> = missing.iter().map(|(step, name)| format!("{name} (step {step})")).collect();
        let flag = match interface {
            Interface::Cli | Interface::Toml => format!("--secret {name}=VALUE"),
            Interface::Python => format!("secrets={{\"{name}\": …}}"),
            Interface::Rust => format!("the secret {name}"),
        };
        return Err(error::usage(format!(
            "secrets are not stored in a session, so step {step} cannot run without {}; give {flag}, or set {}",
            names.join(", "),
            variable(name)
        )));
    }
    match given.keys().find(|name| !used.contains(name)) {
        None => Ok(()),
        Some(other) => Err(error::usage(format!("no step that is to run needs the secret {other}; omit it"))),
    }
}

struct Restored<'a> {
    given: &'a Map<String, Value>,
    used: Vec<&'a String>,
    /// Step and name.
    missing: Vec<(String, String)>,
}

impl Restored<'_> {
    fn fill(&mut self, step: &str, name: &str, value: &mut Value) {
        match value {
            Value::String(text) if text.contains(REDACTED) => match self.find(step, name) {
                Some(secret) => *value = secret,
                None => self.missing.push((step.to_string(), name.to_string())),
            },
            Value::Array(items) => items.iter_mut().enumerate().for_each(|(i, item)| self.fill(step, &format!("{name}.{i}"), item)),
            Value::Object(map) => map.iter_mut().for_each(|(key, item)| self.fill(step, &format!("{name}.{key}"), item)),
            _ => {}
        }
    }

    fn find(&mut self, step: &str, name: &str) -> Option<Value> {
        let names = [format!("{step}/{name}"), name.to_string()];
        for name in &names {
            if let Some((key, value)) = self.given.iter().find(|(key, _)| *key == name) {
                self.used.push(key);
                return Some(value.clone());
            }
        }
        names.iter().find_map(|name| std::env::var(variable(name)).ok()).map(Value::from)
    }
}

/// `PYRUST_NN_SECRET_API_KEY`.
fn variable(name: &str) -> String {
    let name: String = name.chars().map(|symbol| if symbol.is_ascii_alphanumeric() { symbol.to_ascii_uppercase() } else { '_' }).collect();
    format!("{VARIABLE}{name}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tasks::task_named;

    fn steps() -> Vec<Request> {
        let request = |step: &str, params: Value| {
            let given = json!({"script": "a.py", "step": step, "params": params});
            Request::new(task_named("script").unwrap(), Some("s".into()), given.as_object().cloned().unwrap(), Interface::Toml)
        };
        vec![
            request("a", json!({"api_key": REDACTED, "top": 3})),
            request("b", json!({"api_key": REDACTED, "service": {"token": REDACTED}, "url": "https://u:<redacted>@h"})),
        ]
    }

    #[test]
    fn secrets_return_to_their_places_and_a_step_s_own_comes_first() {
        let mut steps = steps();
        let given = json!({"api_key": "k", "b/api_key": "kb", "service.token": "t", "url": "https://u:p@h"});
        restore(&mut steps, given.as_object().unwrap(), Interface::Cli).unwrap();
        assert_eq!(steps[0].given["params"], json!({"api_key": "k", "top": 3}));
        assert_eq!(steps[1].given["params"], json!({"api_key": "kb", "service": {"token": "t"}, "url": "https://u:p@h"}));
    }

    #[test]
    fn missing_ones_are_named_and_others_refused() {
        let refused = |given: Value| restore(&mut steps(), given.as_object().unwrap(), Interface::Cli).unwrap_err().to_string();
        let message = refused(json!({"api_key": "k"}));
        assert!(message.contains("service.token (step b), url (step b); give --secret service.token=VALUE"), "{message}");
        assert!(message.ends_with("or set PYRUST_NN_SECRET_SERVICE_TOKEN"), "{message}");
        let message = refused(json!({"api_key": "k", "service.token": "t", "url": "u", "other": "x"}));
        assert!(message.contains("needs the secret other"), "{message}");
        restore(&mut [], &Map::new(), Interface::Rust).unwrap();
    }
}

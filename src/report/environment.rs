//! The machine, the versions and the commands of a session.

use serde_json::{Value, json};

use crate::base::numbers::bytes;
use crate::report::files_made::quoted;
use crate::report::recorded::RecordedSession;

/// Commands and packages that are listed.
const MAX_ROWS: usize = 40;

/// Names and values, without those that are not recorded.
pub(crate) fn environment(session: &RecordedSession) -> Vec<Value> {
    let record = &session.record;
    let text = |name: &str| record.get(name).and_then(Value::as_str).map(ToString::to_string);
    let platform = record.get("platform").cloned().unwrap_or_default();
    let packages = record.get("packages").and_then(Value::as_object).into_iter().flatten().take(MAX_ROWS);
    let packages: Vec<String> = packages.map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("?"))).collect();
    let seeds = record.get("seeds").and_then(Value::as_object).into_iter().flatten().take(MAX_ROWS);
    let mut seeds: Vec<String> = seeds.map(|(_, seed)| seed.to_string()).collect();
    seeds.dedup();
    let rows = [
        ("Pyrust-NN", text("version")),
        ("Python", text("python")),
        ("packages", Some(packages.join(", ")).filter(|all| !all.is_empty())),
        ("GPU", Some(text("gpu").unwrap_or_else(|| "none".into()))),
        ("processor", platform["cpu"].as_str().map(|cpu| format!("{cpu}, {} cores", platform["cores"]))),
        ("memory", platform["memory_bytes"].as_u64().map(bytes)),
        (
            "system",
            platform["os"].as_str().map(|os| {
                format!("{os} on {}, host {}", platform["arch"].as_str().unwrap_or("?"), platform["host"].as_str().unwrap_or("?"))
            }),
        ),
        ("seed", Some(seeds.join(", ")).filter(|all| !all.is_empty())),
        ("folder", Some(session.folder.display().to_string())),
    ];
    rows.into_iter().filter_map(|(name, value)| Some(json!({"name": name, "value": value?}))).collect()
}

/// The command lines that ran, each once.
pub(crate) fn commands(session: &RecordedSession) -> Vec<String> {
    let mut all = Vec::new();
    for one in session.record.get("invocations").and_then(Value::as_array).into_iter().flatten() {
        let words = one["argv"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut words: Vec<String> = words.map(quoted).collect();
        if let Some(program) = words.first_mut() {
            *program = program.rsplit('/').next().unwrap_or_default().to_string();
        }
        let line = words.join(" ");
        if !line.is_empty() && !all.contains(&line) && all.len() < MAX_ROWS {
            all.push(line);
        }
    }
    all
}
